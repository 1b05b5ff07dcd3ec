// A chunk of predictions and labels, and what a report counts of it: sums of losses, and tables. The tables of two chunks
// are merged by adding them.
#pragma once

#include <cstdint>

#include "job.h"

namespace binxent {

// A page is a 32nd of the scores between two powers of two: 16384 pages hold every float32.
constexpr int page_shift = 18;

// The arrays are of [rows, labels], in row-major order, and are read where they lie.
struct Chunk {
    struct Array {
        char* data = nullptr;
        DType dtype = DType::float32;

        BINXENT_ALWAYS Line line() const { return {data, element_size(dtype)}; }
    };
    int64_t rows = 0, labels = 0;
    Array x, target;
    Array loss;                      // of each element; without data, the definition's loss without weights and options
    const uint8_t* known = nullptr;  // an element whose label is not known has 0, and is not counted; null: all are known

    Input input = Input::logits;
    double threshold = 0;  // an element is predicted where x exceeds it
    int64_t calibration_bins = 1;

    // The table of scores. A score has a key, which rises with it (score_key in report.cpp). The high bits of the key number
    // its page. `pages` holds, for each page, where its bins begin, or -1 if it has none yet. The rest of the key, without its
    // lowest bin_shift bits, is the bin.
    const int32_t* pages = nullptr;
    int bin_shift = page_shift;
    int32_t score_bins = 0;  // of a label, for each class

    // How many elements have been counted. Counting goes on from there, up to the first element that has no bin. Until all
    // are counted, the sums of the losses wait in a buffer of loss_sums(labels) numbers: added in between, they would round
    // otherwise.
    int64_t done = 0;
    double* loss_waiting = nullptr;

    // The tables, to which the chunk is added.
    double* loss_sum = nullptr;   // [labels]
    double* loss_lost = nullptr;  // [labels]: what rounding loss_sum lost
    uint64_t* cells = nullptr;    // [labels][calibration_bins][predicted][positive]: a count and a sum in each, see below
    double* softness = nullptr;   // [labels][calibration_bins]: Σ target − positives, of soft targets
    // [labels][positive][score bins], and padding behind each label. Most labels are negative. Their counters lie side by
    // side, so that a line of the cache holds twice as many counters that are in use.
    uint32_t* scores = nullptr;
};

// A cell is one number, so that one addition counts an element and adds its probability: the count stands in the high
// bits, the sum of probability·2^24 in the low ones. It would overflow with 2^20 rows, so the caller empties it before.
constexpr int cell_count_shift = 44, probability_bits = 24;

// Without padding, the tables of all labels would lie in the same lines of the cache, since their size is a power of two.
constexpr int32_t score_padding = 16;

// How many elements are worked on at once, in the first-level cache.
constexpr int64_t counted_at_once = 512;

// The labels repeat from row to row. So the losses are summed in periods, each a whole number of rows, and long enough for
// a loop over it to become vector code. Returns the elements of a period.
BINXENT_ALWAYS constexpr int64_t loss_sums(int64_t labels) { return (counted_at_once + labels - 1) / labels * labels; }

constexpr int64_t max_rows_in_cell = (int64_t(1) << (64 - cell_count_shift)) - 1;

}  // namespace binxent
