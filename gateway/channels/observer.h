// What the channels tell others: the gateway's state and its commands depend on it. Nothing here knows who
// listens.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct codec_answer;
struct config_channel;
struct message_member;
struct road;
struct session;

// A message of a device, as it was published.
struct channel_report {
    const struct message_member *members; // as message_write_members() gave them
    size_t count;
    int64_t timestamp; // when it was measured: microseconds since 1970
    int64_t received;  // the same of its arrival
};

// All of it is called on the loop; everything is borrowed for the time of the call.
struct channel_observer {
    void *context;
    // A device is here now, on that channel (also when it was here on another one); it is gone (session->elsewhere: to another gateway).
    void (*arrived)(void *context, const struct session *session, const struct config_channel *channel);
    void (*left)(void *context, const struct session *session);
    void (*reported)(void *context, const struct session *session, const struct channel_report *report);
    // A device was heard from: what waits for it may go out.
    void (*talks)(void *context, const struct session *session);
    // A device answered, or, for an implicit answer, sent a report that may be one. from is the way that the
    // answer came.
    void (*answered)(void *context, const struct road *from, const struct codec_answer *answer);
    // What is retained for the channel has changed: its connections, its sockets.
    void (*changed)(void *context, const struct config_channel *channel);
};
