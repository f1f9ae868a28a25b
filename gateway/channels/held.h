// Reports that wait for their position (geolocation/locator.h), between a codec's message and the outbox.
//
// Where they could wait:
//   - In the outbox, with a number and without their text, as what waits for its topic does. They would be on disk at once,
//     and in order by themselves. But a message there is safe once all before it are: a service that is slow would hold up
//     the acknowledgements of all devices. And telemetry would still have to wait somewhere else.
//   - Here, before they get a number. The outbox knows nothing of it, and only what waits for the same report waits: the
//     later reports of its device, so that their order holds, and the replies to it (struct hold in peer.h).
// So they wait here. Nothing of them is on disk before they go out, and no device has heard by then that they are safe.
//
// Each waits for geolocation.timeout at most. There is a bound for all of them; a report that finds it reached goes out as
// it is, after those of its device that wait. A device that leaves, or is called something else from now on, lets what
// waits of it go out first.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/channels/parts.h"
#include "gateway/channels/report.h"

#define HELD_MAX       10000       // reports
#define HELD_BYTES_MAX (16U << 20) // and bytes of them

struct held;
struct held_report;
struct locator;
struct peer;

// parts and locator stay the caller's.
struct held *held_new(struct channel_parts *parts, struct locator *locator);
// Closes the handle on the loop. Nothing is held any more: all sessions have ended.
void held_stop(struct held *held);
void held_free(struct held *held);

// Takes a report of peer in; queue, which begins with NULL, is that of its device. All but origin->session and ->ident,
// which must stay as long as something is in the queue, is copied. False when it need not wait: it is the caller's to
// publish, now, and may have got its position.
bool held_take(struct held *held, struct peer *peer, struct held_report **queue,
               const struct report_origin *origin, struct message *message);

// All of the queue go out, with what is known.
void held_release(struct held *held, struct held_report **queue);

size_t held_count(const struct held *held);
