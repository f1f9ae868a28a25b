// Captures: whose bytes somebody asked to see. Which of them run, for how long, and how much of them is published; the
// bytes themselves are taken in tap.h.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/channels/peer.h"

#define CAPTURE_TIME_MAX     3600 // seconds that one runs
#define CAPTURE_TIME         600  // the same when the request does not say
#define CAPTURE_DEVICE_MAX   65536
#define CAPTURE_INSTANCE_MAX 1048576 // bytes in a minute, of a device and of all
#define CAPTURE_CHUNKS_MAX   16384   // in a minute, of all: small ones cost as much as large ones

struct captures;

// All stays the caller's.
struct captures *captures_new(uv_loop_t *loop, const struct bus *bus);
void captures_end(struct captures *captures);  // all that run
void captures_stop(struct captures *captures); // closes the handle on the loop
void captures_free(struct captures *captures); // once the loop has gone on after that

// What came on {prefix}/request/gw/capture. An empty payload ends all captures; seconds 0 ends that one. What cannot be
// understood is refused, which the log and a log entry say.
void captures_request(struct captures *captures, const char *payload, size_t length);

bool captures_run(const struct captures *captures);    // any; none where there are no captures at all (NULL)
bool captures_follow(const struct captures *captures); // a device: it may yet say that it is the one

// Which captures ask for a device: a bit for each. What peer->captured is made of; see session_find_captured().
uint64_t captures_of(struct captures *captures, const char *ident, const struct device *device);
// Another number whenever other devices are asked for.
uint64_t captures_asked(const struct captures *captures);
// How often captures_of() has looked for a device.
size_t captures_looks(const struct captures *captures);

// Those that want the bytes of peer, a bit for each: because they ask for a device that has said there who it is
// (peer->captured must hold), or for the channel or the address.
uint64_t captures_by_device(const struct captures *captures, const struct peer *peer);
uint64_t captures_by_place(const struct captures *captures, const struct peer *peer);

// How many of so many bytes of peer may be published now, for those that want them; less than all of a datagram is 0. They
// are counted as published, the others as left out.
size_t captures_allow(struct captures *captures, const struct peer *peer, uint64_t wanted, size_t length);

// The names (`by`) of those, as a JSON array for the caller to release; NULL when none of them has a name.
json_t *captures_names(const struct captures *captures, uint64_t wanted);
