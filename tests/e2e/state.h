// What the tests of state, telemetry, logs and the registry share.
#pragma once

#include "tests/e2e/command_life.h"

#define VAN_STATE "state/gw/devices/" VAN
#define CAR_STATE "state/gw/devices/" CAR

// Sends the report "MT;6;IDENT;items" and waits until the gateway has published its message.
void say(struct rig *rig, int device, const char *ident, const char *items);

// The object has exactly these keys, in alphabetical order, separated by blanks.
void expect_keys(const json_t *object, const char *keys);

// Stops the gateway, which must end well, and waits until all that it published has come.
void stop_and_hear(struct rig *rig);

// Kills the gateway, and waits until the broker has noticed.
void kill_and_hear(struct rig *rig);

// A member of a JSON object; it must be there.
const json_t *member(const json_t *object, const char *key);
