// How Home Assistant is told of devices, by MQTT discovery: what trackers and the gateway itself have in common there.
//
// There are two kinds: a topic for each entity, which grow one by one as fields appear and which every Home Assistant knows,
// or one for each device, which it knows since 2024.12. MQTT does not tell which Home Assistant listens, so the
// configuration says it. Publishing both would be wrong with any: an entity that is announced twice is refused or refers to
// two topics. Whoever switches keeps the entities with their history: they have the same unique ids, and the gateway goes
// through Home Assistant's own procedure for each device of which the broker retains the other kind, as it is told when a
// run starts: it says {"migrate_discovery":true} on the old topics, which unloads the entities, empties these topics, and
// announces in the new way once Home Assistant has had DISCOVERY_SETTLES for it. (Emptied after that, as its page says,
// they make Home Assistant complain of each entity.) What is retained is found by one topic a device, so that a start reads
// little.
//
// A device's own topic must not come again while Home Assistant works on what came before: it then leaves out some of the
// entities (so says the source of 2026.11.0). So it is published DISCOVERY_SETTLES apart, and each time once more after that.
#pragma once

#include <stdbool.h>

#include "gateway/config/config.h"

#define DISCOVERY_SETTLES   5000000 // microseconds
#define DISCOVERY_TOPIC_MAX 2048

// Where something is announced, and how.
struct discovery_place {
    const char *prefix;
    enum config_discovery kind;
};

// As the configuration says; or in the other kind.
struct discovery_place discovery_place(const struct config *config, bool other);

// What tells Home Assistant that an entity moves.
extern const char discovery_migrate[];

// Replaces what Home Assistant does not allow in topics.
void discovery_clean(char *node);
