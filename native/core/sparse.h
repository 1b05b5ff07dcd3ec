// Sparse targets: of each row, the labels that are not 0.
#pragma once

#include <cstdint>

#include "inline.h"
#include "view.h"

namespace binxent {

// Packed integers, of either width.
struct Integers {
    const char* data = nullptr;
    bool is_wide = true;  // int64, not int32

    BINXENT_ALWAYS explicit operator bool() const { return data != nullptr; }
    BINXENT_ALWAYS int64_t operator[](int64_t i) const {
        return is_wide ? reinterpret_cast<const int64_t*>(data)[i] : reinterpret_cast<const int32_t*>(data)[i];
    }
};

// A target of [rows, columns] whose column c stands for the label first + c. Row r has the labels [offsets[r],
// offsets[r + 1]), which are sorted and without doubles. A label beyond the columns is not seen. A negative one, which
// stands first, says that the row had a wrong label: the whole row is NaN.
struct SparseRows {
    Integers offsets;  // rows + 1
    Integers labels;
    const char* values = nullptr;  // packed; null: all are 1
    DType dtype = DType::boolean;  // of the values
    int64_t rows = 0, columns = 0, first = 0;

    BINXENT_ALWAYS explicit operator bool() const { return bool(offsets); }
};

// Labels as a caller stores them.
struct StoredLabels {
    const int64_t* offsets = nullptr;  // rows + 1; null: each row has `width` places
    Integers labels;
    int64_t size = 0, rows = 0, width = 0;
    int64_t num_labels = 0;
    bool pads = false;  // whether `padding` is no label, but an empty place
    int64_t padding = 0;
    bool is_set = false;  // a label that stands twice in a row counts once; otherwise it is refused
};

enum class Fault : int { none, offsets, label, twice };

struct Findings {
    Fault fault = Fault::none;
    int64_t row = 0, label = 0;  // where the fault is
    bool is_canonical = true;    // the labels are as SparseRows wants them
};

// Looks at each label once, up to the first fault.
Findings check(const StoredLabels& stored);

// Where sorted labels are written: rows + 1 offsets; and, with room for all that are stored, the labels, in the width that
// they have, and where each has stood. The last may be null.
struct SortedLabels {
    int64_t* offsets;
    char* labels;
    int64_t* places;
};

// Sorts each row of labels in which check() found no fault, without padding and doubles.
Findings sort(const StoredLabels& stored, const SortedLabels& sorted);

}  // namespace binxent
