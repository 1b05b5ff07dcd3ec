// What a report counts of a chunk of predictions and labels: sums of losses, and tables that are merged by adding.
#pragma once

#include <cstdint>

#include "job.h"

namespace binxent {

// Row-major arrays of [rows, labels], as the arithmetic reads them: nothing is copied.
struct Chunk {
    struct Array {
        const char* data = nullptr;
        DType dtype = DType::float32;
    };
    int64_t rows = 0, labels = 0;
    Array x, target;
    Array loss;                      // no data: that of the definition, without weights and options
    const uint8_t* known = nullptr;  // 0: the label is not known, and nothing is counted; null: all are

    Input input = Input::logits;
    double threshold = 0;  // an element is predicted where x exceeds it
    int64_t calibration_bins = 1;

    // A score falls into the bin of the high bits of its magnitude; see score_bin.
    int score_shift = 0;
    int32_t lowest_score = 0, last_score = 0;

    // The tables, to which is added.
    double* loss_sum = nullptr;   // [labels]
    double* loss_lost = nullptr;  // [labels]: what rounding loss_sum lost
    uint64_t* cells = nullptr;    // [labels][calibration_bins][predicted][positive], of a count and a sum: see below
    double* softness = nullptr;   // [labels][calibration_bins]: Σ target − positives, of soft targets
    // [labels][positive][score bins], and padding behind each label. Most labels are negative: their counters lie by
    // themselves, so that a line of the cache holds twice as many that are in use.
    uint32_t* scores = nullptr;
};

// A cell is one number, so that one addition counts an element and adds its probability: the count stands in the high
// bits, the sum of probability·2^24 in the low ones. It overflows with 2^20 rows: the caller empties it before.
constexpr int cell_count_shift = 44, probability_bits = 24;

// Tables of a power of two would lie in the same lines of the cache for every label.
constexpr int32_t score_padding = 16;

constexpr int64_t max_rows_in_cell = (int64_t(1) << (64 - cell_count_shift)) - 1;

}  // namespace binxent
