// Keeping the queue of commands the same in the broker, on disk and here.
//
// The broker's retained entries are what all instances share. After each connection it delivers them; the
// roll call tells when it has done so. A retained marker (the random text of our disk, and the id of the last
// command that was taken in before it) tells what the broker remembers: an entry up to there (the high-water
// mark) that is missing was canceled while we were away; later ones never came to it, or it fell back to an
// older state of its own disk, and it is given them again.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "gateway/broker/mqtt.h"
#include "gateway/broker/roll_call.h"
#include "gateway/commands/journal.h"
#include "gateway/commands/queue.h"

// What it works with stays the caller's; the rest is 0 at first.
struct command_sync {
    struct command_queue *queue;
    struct roll_call *roll_call;
    struct command_journal *journal;

    int64_t vouched; // the high-water mark: id up to which the broker's marker says that it had the entries;
                     // 0: it has none of ours; -1: it has shown nothing that it retains
    int64_t marked;  // the same of the marker as published last
    bool marker_spoiled, any_spoiled; // somebody has overwritten the marker, or entries
    int64_t righted;                  // by clock_ticks(): when these were put right last
    struct command_walk righting;     // over those
    struct command_walk settling;     // over what the broker may have lost
    struct command_walk recalling;    // over what was there before the connection
    size_t again;                     // of these, published again
    int64_t looked;          // by clock_ticks(): when all commands were looked at for one that is unsaid
    size_t entries;          // retained ones that it delivered since the connection
    bool unverified, hinted; // somebody else's signature was not by our key; and what helps was said
    int64_t before_session;  // as the disk had it at the start; see intake.h
};

// Takes up what is on disk. Before the link is started.
void command_sync_start(struct command_sync *sync);

// The link is connected: what is retained begins to come. Which entries are on their way is noted in portions: until
// command_sync_recall() returns false, which takes another one, none should be received.
void command_sync_connected(struct command_sync *sync);
bool command_sync_recall(struct command_sync *sync);

// The roll call has settled: what has not come is not there.
void command_sync_settled(struct command_sync *sync);

// What it does with all commands, when the roll call has settled or entries were overwritten, it does in portions: one of
// them. Returns whether some are left for the next turn of the loop.
bool command_sync_go_on(struct command_sync *sync);
bool command_sync_has_more(const struct command_sync *sync);

// From time to time: renews the marker when commands were taken in; and puts right, once a second, what somebody else has
// overwritten.
void command_sync_mark(struct command_sync *sync);

// What came under {prefix}/state/gw/; topic is what follows that.
void command_sync_received(struct command_sync *sync, const char *topic,
                           const struct mqtt_received *received);
