// What a report counts of a chunk of predictions and labels: sums of losses, and tables that are merged by adding.
#pragma once

#include <cstdint>

#include "job.h"

namespace binxent {

// A page is a 32nd of the scores between two powers of two: 16384 pages hold every float32.
constexpr int page_shift = 18;

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

    // Scores rise with their keys, see score_key, and fall into bins of keys. The high bits of a key are its page: where
    // the bins of a page begin, or -1 where it has none yet. A bin is the rest of the key without these bits.
    const int32_t* pages = nullptr;
    int bin_shift = page_shift;
    int32_t score_bins = 0;  // of a label, for each class

    // Counted so far: elements are added from there on, up to the first that has no bin. Until all are, the sums of the
    // losses wait in a buffer of loss_sums(labels), so that the pause does not change their roundings.
    int64_t done = 0;
    double* loss_waiting = nullptr;

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

// Elements that are worked on in the first-level cache.
constexpr int64_t counted_at_once = 512;

// Labels repeat along the rows. A period is a whole number of rows, long enough for a loop over it to vectorise.
constexpr int64_t loss_sums(int64_t labels) { return (counted_at_once + labels - 1) / labels * labels; }

constexpr int64_t max_rows_in_cell = (int64_t(1) << (64 - cell_count_shift)) - 1;

}  // namespace binxent
