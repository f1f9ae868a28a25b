// Keeping the queue of commands the same in the broker, on disk and here.
//
// The broker's retained entries are what all instances share. After each connection it delivers them; a
// message to ourselves, published behind the subscriptions, tells when it has done so. A retained marker (the
// random text of our disk) tells a broker that remembers, where an entry that is missing was canceled while
// we were away, from one that lost its retained messages and is given them again.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/mqtt_link.h"

struct gateway;

enum command_sync_state { SYNC_NO_LINK, SYNC_OPEN, SYNC_SETTLING, SYNC_DONE };

struct command_sync {
    enum command_sync_state state;
    bool marker_seen;
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

// Whether the broker has not delivered all its entries yet.
bool command_sync_is_open(const struct gateway *gateway);

// What came under {prefix}/state/gw/; topic is what follows that.
void command_sync_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received);
