// How long to wait before connecting again; see backoff.h.
#include "gateway/broker/backoff.h"

#define DELAY_MIN    1000
#define DELAY_HURRY  200
#define DELAY_OUTAGE 5000
#define DELAY_MAX    30000

void backoff_up(struct backoff *backoff, uint64_t now) {
    backoff->up_since = now;
    backoff->reached = true;
}

bool backoff_down(struct backoff *backoff, uint64_t now) {
    bool lasted = backoff->up_since != 0 && now - backoff->up_since >= BACKOFF_LASTING;
    if (lasted) {
        backoff->next = 0;
        backoff->contested = false;
    }
    backoff->up_since = 0;
    return lasted;
}

void backoff_got_on(struct backoff *backoff) {
    if (!backoff->contested)
        backoff->next = DELAY_HURRY;
}

void backoff_contested(struct backoff *backoff) {
    backoff->contested = true;
}

static unsigned bound(const struct backoff *backoff) {
    return backoff->reached && !backoff->contested ? DELAY_OUTAGE : DELAY_MAX;
}

unsigned backoff_delay(struct backoff *backoff, unsigned random) {
    unsigned most = bound(backoff);
    unsigned delay = backoff->next > 0 ? backoff->next : DELAY_MIN;
    if (delay > most)
        delay = most;
    backoff->next = delay * 2;
    return delay / 2 + random % (delay / 2 + 1);
}
