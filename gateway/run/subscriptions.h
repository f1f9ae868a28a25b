// What the gateway hears from the broker: the topics that its connection subscribes to.
#pragma once

#include <stddef.h>

#include "gateway/broker/mqtt_link.h"
#include "gateway/config/config.h"

struct subscriptions {
    struct mqtt_subscription list[20];
    size_t count;
    const char *own;      // filter of the one to our own topics
    const char *commands; // of the one that brings commands; NULL: none does
};

// Fills a list that is all zero, for the configuration.
void subscriptions_fill(struct subscriptions *subscriptions, const struct config *config);
// Frees its texts, but not the list.
void subscriptions_free(struct subscriptions *subscriptions);
