// The course of a measurement, the same for devices and for the publisher that they are compared with: get
// ready, warm up, measure, wait for what is under way, print the result as JSON on standard output.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "tests/bench/reports.h"
#include "tests/bench/subscriber.h"

#define COURSE_WATCHED_MAX 4

struct course_options {
    const char *protocol;
    const char *host;  // of the gateway and the broker: an IPv4 address
    const char *topic; // of the messages; NULL: trackbus's
    int port;          // of the gateway; unused by the publisher
    int broker_port;
    int qos;
    int channel; // channel.id in the topics of the publisher
    int window;  // messages that the publisher has under way
    bool udp;
    bool mixed;
    bool segments;  // reports of Mictrack without an end of line
    unsigned lines; // a second, on standard error
    bool hold;      // keep the connections until standard input ends
    unsigned devices;
    unsigned rate;      // reports a second, of all together; 0: as fast as they are taken
    unsigned ramp;      // connections a second; 0: as fast as they are taken
    unsigned batch;     // reports in one write
    unsigned buffered;  // reports that each device sends in one go once it is connected, after its first
    unsigned under_way; // reports that may be under way to the subscriber; 0: any number
    double seconds, warmup;
    pid_t watched[COURSE_WATCHED_MAX]; // processes whose processor time is measured
    size_t watched_count;
};

enum course_phase { GETTING_READY, WARMING_UP, MEASURING, DRAINING, HOLDING };

struct course;

// What a program adds to the course.
struct course_actor {
    void (*connect)(struct course *course); // called each turn while getting ready
    bool (*is_ready)(struct course *course);
    void (*send)(struct course *course); // sends as much as course_allowance() says; called each turn
    void (*finish)(struct course *course);
};

struct course {
    struct course_options options;
    const struct course_actor *actor;
    const struct reports *reports;
    uv_loop_t loop;
    uv_timer_t tick;
    struct subscriber *subscriber;
    enum course_phase phase;
    uint64_t phase_began, last_progress, last_received; // nanoseconds, nanoseconds, messages
    uint64_t last_line;
    uint64_t sent;
    uint64_t given_up;               // datagrams that are taken to be lost
    uint64_t begun_with;             // received when measuring began
    uint64_t measured, measured_for; // messages, nanoseconds
    uint64_t rate_began, rate_sent;  // for pacing
    uint64_t ready_for;              // nanoseconds until all were connected and what they said had come
    unsigned connected, closed;      // devices
    struct histogram answers;        // nanoseconds from a report to the gateway's answer, while measuring
    double own_cpu;                  // seconds of this thread while measuring
    double watched_cpu[COURSE_WATCHED_MAX]; // seconds while measuring
};

// Reads the options, ends the program with a help text or 2 when they are wrong.
void course_begin(struct course *course, int argc, char **argv, const struct course_actor *actor);
// Runs to the end; the exit code.
int course_run(struct course *course);

// Reports that may be sent now.
size_t course_allowance(const struct course *course);
// Notes a report that is about to be written.
void course_note(struct course *course, unsigned device, unsigned sequence, uint64_t now);
// The gateway has answered a report that was written then, by bench_clock().
void course_note_answer(struct course *course, uint64_t written);
// A fault that makes all results worthless.
__attribute__((noreturn, format(printf, 1, 2))) void course_fail(const char *format, ...);
