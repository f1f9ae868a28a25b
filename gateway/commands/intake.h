// Taking in what is published to the command topics.
#pragma once

#include "gateway/broker/mqtt.h"
#include "gateway/commands/journal.h"
#include "gateway/commands/queue.h"
#include "gateway/commands/redelivery.h"
#include "gateway/config/registry.h"

// What it works with; all of it stays the caller's.
struct command_intake {
    struct command_queue *queue;
    const struct registry *registry;
    struct redelivery *redelivery;
    struct command_journal *journal;
    struct command_fresh *fresh; // of commands that wait for the disk, the first one first; NULL at first
    struct command_batch *batch; // the first publish of the journal, while its commands are taken in; or NULL
    bool full;                   // the journal was, and the link is held
    bool resumed;                // the session goes on, and what was taken in before is still to be recalled
    struct command_walk recalling; // over what was taken in before the connection
    // What the broker may have delivered again is being decided: which of it is left out. Meanwhile nothing is taken out of
    // the journal.
    bool deciding;
    int64_t over;                         // what came up to that id came in a session that is over
    int64_t vouched;                      // of the rest: the id that stands in the broker's marker
    int64_t attested;                     // and the id that stood in one before, see struct command_table
    struct command_walk undecided;        // over the commands
    struct command_publish *undecided_at; // the next one of the journal
    bool left_out;  // some of it just now: no marker may leave before the disk knows that
    bool settled;   // the broker has delivered what it had kept; what comes then is new, or comes late
    int64_t recent; // ids of commands that came shortly before the connection begin here
    int64_t before_session; // id of the last command before the session that the broker keeps; 0: not known
    int64_t before_run;     // id of the last command before this run
    int64_t attested_then;  // what a broker had had of our markers when the connection began
};

// Frees what it still has of its own.
void command_intake_clear(struct command_intake *intake);

// The link is connected. resumed: the broker has kept our session. What was taken in before is recalled in portions: until
// command_intake_recall() returns false, which takes another one, nothing should be taken in.
void command_intake_connected(struct command_intake *intake, bool resumed);
bool command_intake_recall(struct command_intake *intake);
bool command_intake_is_recalling(const struct command_intake *intake);

// What came under {prefix}/command/gw/. Each command in the payload is queued, or rejected at once with a
// reason; what the broker may be delivering again waits until command_intake_settled(). A publish of many commands, and what
// comes for the same device behind it, goes to the journal. Until the commands, or the journal's row, are on disk the link
// holds what leaves for the broker, its acknowledgement first of all; and no command is sent before it is on disk.
void command_intake_take(struct command_intake *intake, const struct mqtt_received *received);

// A portion of what is to be decided, or taken out of the journal. Returns whether some is left for the next turn of the
// loop.
bool command_intake_go_on(struct command_intake *intake);
bool command_intake_has_more(const struct command_intake *intake);

// The broker has delivered what it had kept for us; vouched is the id of the last command up to which its memory
// reaches, 0 when none, -1 when it shows nothing of what it retains. What it has delivered again is left out, the rest is queued: in portions, see
// command_intake_go_on(). No new marker is put into the outbox while the table has twins; one that stood there may leave.
void command_intake_settled(struct command_intake *intake, int64_t vouched);

// From time to time: what came before the connection is remembered for a minute. now is by clock_ticks().
void command_intake_sweep(struct command_intake *intake, int64_t now, int64_t vouched);
