// What the tests of commands share: devices that wake, and the life of a command as the broker saw it.
#pragma once

#include <stdint.h>

#include "tests/e2e/rig.h"

#define TO_VAN "command/gw/devices/" VAN
#define TO_CAR "command/gw/devices/" CAR
#define REBOOT "{\"name\":\"reboot\"}"
// Its attempts follow each other quickly.
#define REBOOT_FAST(attempts) "{\"name\":\"reboot\",\"timeout\":1,\"max_attempts\":" #attempts "}"
#define ALL_PENDING           "state/gw/devices/+/commands-queue/+"

// A story is told twice: over MQTT 5, and over 3.1.1, where messages have no properties and what we publish
// comes back. The suite of the second has the same name with _3_1_1 behind it.
#define STORY(suite, name)                                                                                   \
    static void suite##_##name(void);                                                                        \
    Test(suite, name) {                                                                                      \
        suite##_##name();                                                                                    \
    }                                                                                                        \
    Test(suite##_3_1_1, name) {                                                                              \
        rig_speak("3.1.1");                                                                                  \
        suite##_##name();                                                                                    \
    }                                                                                                        \
    static void suite##_##name(void)

// A device on a new connection that has reported; the gateway has taken it.
int wake(struct rig *rig, const char *ident);
int wake_udp(struct rig *rig, const char *ident);
// The same on a socket that is there.
void talk(struct rig *rig, int device, const char *ident);

// Publishes a command for the device and waits until it is pending. name: that of the command, or +. Returns its id.
int64_t queue_command(struct rig *rig, const char *ident, const char *name, const char *command);

// The entry as a gateway with RIG_KEY would have signed it for that topic. The text is good until the next call.
const char *signed_entry(const char *topic, const char *entry);

// Waits for the log entry of a step of a command, which contains subset (or NULL). Returns the command's id.
int64_t expect_step(struct rig *rig, const char *ident, const char *name, const char *step,
                    const char *subset);

// Waits until the broker has published this entry of a command (NULL: an empty one), and takes it.
void expect_entry(struct rig *rig, const char *ident, int64_t id, const char *subset);

// Waits until the broker has acknowledged all that the gateway has published.
void expect_handed_over(struct rig *rig);

// Nothing was published on topics that match: looks once the broker has all from the gateway, and the rig all of that.
void expect_none(struct rig *rig, const char *filter);

// A command comes through to another device, which is woken for it: those that were published before have come through
// as well, or never will.
void expect_passed(struct rig *rig);

// So many log entries of that step have come by now, not counting those that came twice.
void expect_steps(struct rig *rig, const char *ident, const char *step, size_t count);

// Every command that was queued has ended in exactly one way, was not sent after that, and the broker retains
// nothing of it. Waits for the ends. repeated: an end may have been said twice, because the gateway or the
// broker was killed.
void check_lives(struct rig *rig, bool repeated);

// Checks all lives and stops the gateway. The last line of a test.
void finish(struct rig *rig);
