// When to ask again for a subscription that the broker refused: soon, and each time later, where the reason passes;
// from time to time where somebody may change its access list; otherwise not before the next connection.
#pragma once

#include <stdbool.h>
#include <uv.h>

enum again { AGAIN_NEVER, AGAIN_SOON, AGAIN_SLOWLY };
#define AGAIN_MIN  1000  // milliseconds until the first time, after which it becomes twice as many
#define AGAIN_MAX  60000 // and at most
#define AGAIN_SLOW 30000 // milliseconds until each time that may be long in coming

struct asking_again {
    uv_timer_t timer;
    unsigned soon;              // milliseconds
    bool waits_soon;            // several that are refused at once count as one
    void (*ask)(void *context); // that it is time: for all that are to be asked for again
    void *context;
};

void asking_again_init(struct asking_again *again, uv_loop_t *loop, void (*ask)(void *context),
                       void *context);
// A new connection: from the beginning.
void asking_again_begin(struct asking_again *again);
// The broker refused one for that reason (0x80 and above; MQTT 3.1.1 knows only 0x80).
enum again asking_again_note(struct asking_again *again, int reason);
// The connection is gone.
void asking_again_end(struct asking_again *again);
// Closes the handle on the loop.
void asking_again_close(struct asking_again *again);
