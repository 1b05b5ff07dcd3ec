#include "sparse.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "memory.h"

namespace binxent {
namespace {

// The places of a row among the labels.
struct Places {
    int64_t begin, end;

    Places(const StoredLabels& stored, int64_t row)
        : begin(stored.offsets ? stored.offsets[row] : row * stored.width),
          end(stored.offsets ? stored.offsets[row + 1] : begin + stored.width) {}
};

}  // namespace

Findings check(const StoredLabels& stored) {
    Findings found;
    const auto fault = [&](Fault kind, int64_t row, int64_t label) {
        found.fault = kind;
        found.row = row;
        found.label = label;
        return found;
    };
    if (stored.offsets && stored.offsets[0] != 0) return fault(Fault::offsets, 0, stored.offsets[0]);
    for (int64_t row = 0; row < stored.rows; ++row) {
        const Places places(stored, row);
        if (places.end < places.begin || places.end > stored.size) return fault(Fault::offsets, row, places.end);
        int64_t before = -1;
        for (int64_t i = places.begin; i < places.end; ++i) {
            const int64_t label = stored.labels[i];
            if (stored.pads && label == stored.padding) {
                found.is_canonical = false;
                continue;
            }
            if (label < 0 || label >= stored.num_labels) return fault(Fault::label, row, label);
            if (label == before && !stored.is_set) return fault(Fault::twice, row, label);
            found.is_canonical &= label > before;
            before = label;
        }
    }
    if (stored.offsets && stored.offsets[stored.rows] != stored.size)
        return fault(Fault::offsets, stored.rows, stored.offsets[stored.rows]);
    return found;
}

Findings sort(const StoredLabels& stored, const SortedLabels& sorted) {
    Findings found;
    using Label = std::pair<int64_t, int64_t>;  // with its place
    std::vector<Label, Allocator<Label>> row_labels;
    int64_t written = 0;
    sorted.offsets[0] = 0;
    for (int64_t row = 0; row < stored.rows; ++row) {
        const Places places(stored, row);
        row_labels.clear();
        for (int64_t i = places.begin; i < places.end; ++i)
            if (const int64_t label = stored.labels[i]; !stored.pads || label != stored.padding)
                row_labels.emplace_back(label, i);
        if (!std::is_sorted(row_labels.begin(), row_labels.end())) std::sort(row_labels.begin(), row_labels.end());
        for (size_t i = 0; i < row_labels.size(); ++i) {
            const auto [label, place] = row_labels[i];
            if (i > 0 && label == row_labels[i - 1].first) {
                if (stored.is_set) continue;
                found.fault = Fault::twice;
                found.row = row;
                found.label = label;
                return found;
            }
            if (stored.labels.is_wide)
                reinterpret_cast<int64_t*>(sorted.labels)[written] = label;
            else
                reinterpret_cast<int32_t*>(sorted.labels)[written] = int32_t(label);
            if (sorted.places) sorted.places[written] = place;
            ++written;
        }
        sorted.offsets[row + 1] = written;
    }
    return found;
}

}  // namespace binxent
