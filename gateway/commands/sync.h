// Keeping the queue of commands the same in the broker, on disk and here.
//
// The broker's retained entries are what all instances share. After each connection it delivers them; a
// message to ourselves, published behind the subscriptions, tells when it has done so. A retained marker (the
// random text of our disk, and the id of the last command that was taken in before it) tells what the broker
// remembers: an entry up to there that is missing was canceled while we were away; later ones never came to
// it, or it fell back to an older state of its own disk, and it is given them again.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/mqtt_link.h"

struct gateway;

enum command_sync_state {
    SYNC_NEVER,    // the broker has not said yet what became of the commands since the last run
    SYNC_OPEN,     // it delivers its entries
    SYNC_SETTLING, // and has delivered those that it delivers in order
    SYNC_DONE,
    SYNC_NO_LINK, // but it was there before
};

struct command_sync {
    enum command_sync_state state;
    int64_t
        vouched;    // id up to which the broker's marker says that it had the entries; 0: it has none of ours
    int64_t marked; // the same of the marker as published last
    size_t entries; // that it delivered since the connection
    char nonce[40];
    uv_timer_t settle;
};

// Takes up what is on disk. Before the link is started.
void command_sync_start(struct gateway *gateway);
void command_sync_stop(struct gateway *gateway);

// The link: is connected, has subscribed, is lost.
void command_sync_begin(struct gateway *gateway);
void command_sync_ask(struct gateway *gateway);
void command_sync_lost(struct gateway *gateway);

// Whether the broker has not delivered all its entries yet: what it has not confirmed may have ended
// elsewhere.
bool command_sync_is_open(const struct gateway *gateway);
// Whether all that it has is known, and what changes is heard.
bool command_sync_is_done(const struct gateway *gateway);

// From time to time: renews the marker when commands were taken in.
void command_sync_mark(struct gateway *gateway);

// What came under {prefix}/state/gw/; topic is what follows that.
void command_sync_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received);
