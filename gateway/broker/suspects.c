// Suspects; see suspects.h.
#include "gateway/broker/suspects.h"

#define WAIT_MIN 200   // milliseconds
#define WAIT_MAX 60000 // the same
#define QUICK_MAX                                                                                            \
    1000 // milliseconds: a broker that closes at a message does so within the way there and back
#define RATIO         8 // how much longer a connection must have lived before than after; and a wait than others
#define CLEAR         250 // milliseconds: a broker that closes later may have done so for another reason
#define CLEAR_STRIKES 3
#define MURKY_STRIKES 5

unsigned strikes_wait(const struct strikes *strikes) {
    unsigned wait = strikes->quick * RATIO > WAIT_MIN ? strikes->quick * RATIO : WAIT_MIN;
    for (unsigned i = 1; i < strikes->count && wait < WAIT_MAX; i++)
        wait *= 2;
    return strikes->count == 0 ? 0 : wait < WAIT_MAX ? wait : WAIT_MAX;
}

static unsigned strikes_needed(const struct strikes *strikes) {
    return strikes->murky ? MURKY_STRIKES : CLEAR_STRIKES;
}

bool strikes_accuse(const struct strikes *strikes) {
    return strikes->count + 1 >= strikes_needed(strikes);
}

bool strikes_convict(const struct strikes *strikes) {
    return strikes->count >= strikes_needed(strikes);
}

// The first is a guess, which tells how long the next connection must live.
void strikes_note(struct strikes *strikes, enum mqtt_end end, uint64_t before, uint64_t after) {
    bool clear = end == MQTT_ENDED_BY_BROKER && after <= CLEAR;
    struct strikes next = *strikes;
    if (after > next.quick)
        next.quick = after < QUICK_MAX ? (unsigned)after : QUICK_MAX;
    if (after > QUICK_MAX)
        *strikes = (struct strikes){.count = 0};
    else if (strikes->count > 0 && before < strikes_wait(&next))
        *strikes = (struct strikes){.count = 1, .quick = next.quick, .murky = !clear};
    else
        *strikes =
            (struct strikes){.count = next.count + 1, .quick = next.quick, .murky = next.murky || !clear};
}

unsigned suspects_patience(const struct suspects *suspects) {
    unsigned patience = (unsigned)SUSPECTS_PATIENCE << suspects->doubled;
    return patience < SUSPECTS_PATIENCE_MAX ? patience : SUSPECTS_PATIENCE_MAX;
}

void suspects_note_silence(struct suspects *suspects) {
    suspects->doubled += suspects_patience(suspects) < SUSPECTS_PATIENCE_MAX;
}

// One quick answer tells little: some are quick where others are late.
void suspects_note_answer(struct suspects *suspects, uint64_t after) {
    if (after > suspects->slowest)
        suspects->slowest = after < SUSPECTS_PATIENCE_MAX ? (unsigned)after : SUSPECTS_PATIENCE_MAX;
    suspects->quick = after <= QUICK_MAX ? suspects->quick + 1 : 0;
    if (suspects->quick < SUSPECTS_CLEARED)
        return;
    suspects->quick = suspects->doubled = suspects->slowest = 0;
}

bool suspects_would_have_answered(const struct suspects *suspects, uint64_t waited) {
    return waited >= SUSPECTS_PATIENCE_MAX || waited >= (uint64_t)suspects->slowest * RATIO;
}

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
