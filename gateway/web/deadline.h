// How long a client may take to say what it wants: who sends a byte now and then is never idle, and would hold its
// connection for ever.
#pragma once

#include <stdint.h>
#include <uv.h>

struct deadlines;
struct asker;

// A request must be whole after so many milliseconds from when it may begin; the rest is the library's.
struct deadlines *deadlines_new(uv_loop_t *loop, uint64_t milliseconds);
void deadlines_stop(struct deadlines *deadlines); // closes the handle on the loop
void deadlines_free(struct deadlines *deadlines); // all askers are gone

// A connection on that socket, whose first request may begin. When it is late, both sides of the socket are shut down, so
// that its owner finds it ended.
struct asker *asker_new(struct deadlines *deadlines, int socket);
void asker_gone(struct asker *asker); // before the socket is closed

void asker_is_whole(struct asker *asker); // its request is; NULL is nobody
void asker_may_ask(struct asker *asker);  // the next one may begin; NULL is nobody
