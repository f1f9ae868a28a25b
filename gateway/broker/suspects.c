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
#define CLOSER        600000 // milliseconds for which a broker is known to close at what it refuses
#define PORTION_MAX   8      // messages in a portion, or
#define PORTION_SHARE 32     // that part of a window, where it is more

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

void suspects_fall_silent(struct suspects *suspects) {
    suspects->prompt = false;
}

void suspects_note_silence(struct suspects *suspects) {
    suspects->doubled += !suspects->prompt && suspects_patience(suspects) < SUSPECTS_PATIENCE_MAX;
}

// Where some are late, one that is quick tells little.
void suspects_note_answer(struct suspects *suspects, uint64_t after) {
    if (after > suspects->slowest)
        suspects->slowest = after < SUSPECTS_PATIENCE_MAX ? (unsigned)after : SUSPECTS_PATIENCE_MAX;
    suspects->quick = after <= QUICK_MAX ? suspects->quick + 1 : 0;
    suspects->prompt = suspects->slowest <= QUICK_MAX;
    suspects->doubled = suspects->prompt ? 0 : suspects->doubled;
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

static unsigned portion_max(unsigned window) {
    unsigned most = window / PORTION_SHARE > PORTION_MAX ? window / PORTION_SHARE : PORTION_MAX;
    return most < window ? most : window;
}

void suspects_clear_portion(struct suspects *suspects, unsigned window) {
    suspects->cleared += suspects->portion;
    if (suspects->cleared < SUSPECTS_CLEARED)
        return;
    suspects->cleared = 0;
    suspects->portion *= 2;
    if (suspects->portion > portion_max(window))
        suspects->portion = portion_max(window);
}

void suspects_note_closer(struct suspects *suspects, uint64_t now) {
    suspects->closer_until = now + CLOSER;
}

static void begin(struct suspects *suspects, uint64_t through) {
    suspects->through = through;
    suspects->portion = 1;
    suspects->cleared = 0;
}

bool suspects_note_break(struct suspects *suspects, const struct suspects_break *broken) {
    bool stuck = suspects->broke && (!broken->answered || broken->first <= suspects->broke_through);
    bool suspected = suspects_include(suspects, broken->first);
    suspects->broke = broken->under_way > 0;
    suspects->broke_through = broken->last;
    if (broken->under_way == 0)
        return false;
    if (suspected)
        begin(suspects, suspects->through);
    else if (stuck || broken->now < suspects->closer_until)
        begin(suspects, broken->last);
    return suspected && broken->under_way == 1;
}
