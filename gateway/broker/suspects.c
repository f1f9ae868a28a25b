// Suspects; see suspects.h.
#include "gateway/broker/suspects.h"

bool suspects_include(const struct suspects *suspects, uint64_t number) {
    return number <= suspects->through;
}

void suspects_begin_portion(struct suspects *suspects) {
    suspects->left = suspects->portion;
}

void suspects_clear_portion(struct suspects *suspects, unsigned window) {
    suspects->cleared += suspects->portion;
    if (suspects->cleared < SUSPECTS_CLEARED)
        return;
    suspects->cleared = 0;
    suspects->portion = suspects->portion < window / 2 ? suspects->portion * 2 : window;
}

static void narrow(struct suspects *suspects, unsigned under_way, uint64_t last) {
    suspects->portion = under_way > 1 ? under_way / 2 : 1;
    suspects->cleared = 0;
    if (under_way > 1)
        suspects->through = last; // those behind it were not under way
}

bool suspects_note_break(struct suspects *suspects, unsigned under_way, uint64_t first, uint64_t last,
                         bool answered) {
    bool again = suspects->broke && !answered;
    suspects->broke = under_way > 0;
    if (under_way == 0)
        return false;
    if (suspects_include(suspects, first)) {
        narrow(suspects, under_way, last);
        return under_way == 1;
    }
    if (again) {
        suspects->through = last;
        suspects->portion = 1;
        suspects->cleared = 0;
    }
    return false;
}
