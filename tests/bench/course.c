// The course of a measurement; see course.h.
#include "tests/bench/course.h"

#include <getopt.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND   UINT64_C(1000000000) // nanoseconds
#define PATIENCE (20 * SECOND)        // without any progress
#define LOST     (SECOND / 2)         // after which a datagram is taken to be lost when nothing arrives
#define DRAIN    10                   // seconds to wait for what is under way
#define UNBOUND  (SIZE_MAX / 2)

static const char help[] =
    "Devices that send reports (trackbus-load), or a publisher that publishes the same messages without a\n"
    "gateway (trackbus-bare), and a subscriber that counts what arrives. The result is JSON on standard\n"
    "output; lines on standard error say how it goes (due: what the rate asks for and is not sent yet).\n"
    "\n"
    "  --port N           TCP or UDP port of the gateway's channel (trackbus-load)\n"
    "  --broker N         port of the broker, on 127.0.0.1\n"
    "  --host ADDRESS     of gateway and broker, IPv4; 127.0.0.1 by default\n"
    "  --topic FILTER     counts what comes there, one message a report, whatever it says (and so measures "
    "no\n"
    "                     latency): for gateways other than trackbus\n"
    "  --protocol NAME    mictrack (default) or magicyo\n"
    "  --udp              datagrams instead of TCP connections\n"
    "  --devices N        1000\n"
    "  --rate N           reports a second, of all devices together; 0 (default): as many as are taken\n"
    "  --ramp N           connections a second; 0 (default): as fast as they are taken\n"
    "  --mixed            all kinds of reports, not positions alone\n"
    "  --segments         Mictrack without an end of line: a report ends with its segment\n"
    "  --buffered N       reports that each device sends in one go once it is connected; 0 by default\n"
    "  --batch N          reports in one write, 1 by default; with a rate always 1\n"
    "  --under-way N      reports that may be between devices and subscriber; 0 (default): any number\n"
    "  --qos N            of the subscriber and of trackbus-bare; 1 by default\n"
    "  --window N         messages that trackbus-bare has under way to the broker; 256 by default\n"
    "  --warmup SECONDS   1 by default\n"
    "  --seconds SECONDS  5 by default; 0: every device reports once, nothing else\n"
    "  --watch PID        measure the processor time of that process too, up to four times\n"
    "  --lines N          a second, of how it goes; 1 by default\n"
    "  --hold             after the result keep all connections until standard input ends\n";

enum option_id {
    PORT = 1,
    HOST,
    TOPIC,
    SEGMENTS,
    BUFFERED,
    LINES,
    BROKER,
    PROTOCOL,
    UDP,
    DEVICES,
    RATE,
    RAMP,
    MIXED,
    BATCH,
    UNDER_WAY,
    QOS,
    WINDOW,
    WARMUP,
    SECONDS,
    WATCH,
    HOLD,
    HELP
};

static const struct option longs[] = {{"port", 1, NULL, PORT},
                                      {"broker", 1, NULL, BROKER},
                                      {"protocol", 1, NULL, PROTOCOL},
                                      {"udp", 0, NULL, UDP},
                                      {"devices", 1, NULL, DEVICES},
                                      {"rate", 1, NULL, RATE},
                                      {"ramp", 1, NULL, RAMP},
                                      {"mixed", 0, NULL, MIXED},
                                      {"batch", 1, NULL, BATCH},
                                      {"under-way", 1, NULL, UNDER_WAY},
                                      {"qos", 1, NULL, QOS},
                                      {"window", 1, NULL, WINDOW},
                                      {"warmup", 1, NULL, WARMUP},
                                      {"seconds", 1, NULL, SECONDS},
                                      {"watch", 1, NULL, WATCH},
                                      {"hold", 0, NULL, HOLD},
                                      {"host", 1, NULL, HOST},
                                      {"topic", 1, NULL, TOPIC},
                                      {"segments", 0, NULL, SEGMENTS},
                                      {"buffered", 1, NULL, BUFFERED},
                                      {"lines", 1, NULL, LINES},
                                      {"help", 0, NULL, HELP},
                                      {0}};

void course_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

// --- options ---

static unsigned number_of(const char *text, unsigned least, unsigned most) {
    char *end;
    unsigned long number = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || number < least || number > most) {
        fprintf(stderr, "'%s': a number from %u to %u was expected\n", text, least, most);
        exit(2);
    }
    return (unsigned)number;
}

static double seconds_of(const char *text) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds >= 0 && seconds <= 86400)) {
        fprintf(stderr, "'%s': seconds were expected\n", text);
        exit(2);
    }
    return seconds;
}

static bool take_flag(struct course_options *options, int id) {
    switch (id) {
    case UDP:
        return options->udp = true;
    case MIXED:
        return options->mixed = true;
    case SEGMENTS:
        return options->segments = true;
    case HOLD:
        return options->hold = true;
    default:
        return false;
    }
}

static bool take_place(struct course_options *options, int id, const char *value) {
    switch (id) {
    case PORT:
        options->port = (int)number_of(value, 1, 65535);
        return true;
    case BROKER:
        options->broker_port = (int)number_of(value, 1, 65535);
        return true;
    case HOST:
        options->host = value;
        return true;
    case TOPIC:
        options->topic = value;
        return true;
    case PROTOCOL:
        options->protocol = value;
        return true;
    case QOS:
        options->qos = (int)number_of(value, 0, 1);
        return true;
    case WINDOW:
        options->window = (int)number_of(value, 1, 65535);
        return true;
    default:
        return false;
    }
}

static bool take_amount(struct course_options *options, int id, const char *value) {
    switch (id) {
    case DEVICES:
        options->devices = number_of(value, 1, 100000);
        return true;
    case RATE:
        options->rate = number_of(value, 0, 10000000);
        return true;
    case RAMP:
        options->ramp = number_of(value, 0, 1000000);
        return true;
    case BATCH:
        options->batch = number_of(value, 1, 64);
        return true;
    case LINES:
        options->lines = number_of(value, 1, 100);
        return true;
    case BUFFERED:
        options->buffered = number_of(value, 0, 63);
        return true;
    case UNDER_WAY:
        options->under_way = number_of(value, 0, 10000000);
        return true;
    case WARMUP:
        options->warmup = seconds_of(value);
        return true;
    case SECONDS:
        options->seconds = seconds_of(value);
        return true;
    default:
        return false;
    }
}

static void add_watched(struct course_options *options, const char *value) {
    if (options->watched_count == COURSE_WATCHED_MAX)
        course_fail("too many processes to watch");
    options->watched[options->watched_count++] = (pid_t)number_of(value, 1, 1U << 30);
}

static void take_option(struct course_options *options, int id, const char *value) {
    if (take_flag(options, id) || take_place(options, id, value) || take_amount(options, id, value))
        return;
    if (id == WATCH) {
        add_watched(options, value);
        return;
    }
    fputs(help, id == HELP ? stdout : stderr);
    exit(id == HELP ? 0 : 2);
}

void course_begin(struct course *course, int argc, char **argv, const struct course_actor *actor) {
    int id;
    *course = (struct course){.actor = actor};
    course->options = (struct course_options){.protocol = "mictrack",
                                              .host = "127.0.0.1",
                                              .devices = 1000,
                                              .batch = 1,
                                              .lines = 1,
                                              .qos = 1,
                                              .channel = 1,
                                              .window = 256,
                                              .seconds = 5,
                                              .warmup = 1};
    while ((id = getopt_long(argc, argv, "", longs, NULL)) != -1)
        take_option(&course->options, id, optarg);
    course->reports = reports_make(course->options.protocol, course->options.mixed);
    if (optind < argc || course->options.broker_port == 0 || course->reports == NULL)
        take_option(&course->options, '?', NULL);
    if (course->options.rate > 0 || course->options.segments)
        course->options.batch = 1;
    uv_loop_init(&course->loop);
}

// --- how much may be sent ---

static uint64_t under_way(const struct course *course) {
    uint64_t gone = subscriber_received(course->subscriber) + course->given_up;
    return course->sent > gone ? course->sent - gone : 0;
}

// What the rate asks for and is not sent yet.
static double due(const struct course *course) {
    bool sends = course->phase == WARMING_UP || course->phase == MEASURING;
    return sends && course->options.rate > 0
               ? (double)(bench_clock() - course->rate_began) / 1e9 * course->options.rate -
                     (double)course->rate_sent
               : 0;
}

size_t course_allowance(const struct course *course) {
    const struct course_options *options = &course->options;
    size_t allowance = UNBOUND;
    if (course->phase != WARMING_UP && course->phase != MEASURING)
        return 0;
    if (options->rate > 0)
        allowance = due(course) > 0 ? (size_t)due(course) : 0;
    if (options->under_way > 0) {
        uint64_t taken = under_way(course);
        size_t room = taken < options->under_way ? options->under_way - (size_t)taken : 0;
        allowance = room < allowance ? room : allowance;
    }
    return allowance;
}

void course_note(struct course *course, unsigned device, unsigned sequence, uint64_t now) {
    course->sent++;
    course->rate_sent++;
    subscriber_expect(course->subscriber, device, sequence, now);
}

void course_note_answer(struct course *course, uint64_t written) {
    if (course->phase == MEASURING)
        histogram_note(&course->answers, bench_clock() - written);
}

// --- the result ---

static void print_latencies(const char *name, const struct histogram *latency) {
    static const double percents[] = {0,  10, 20, 30, 40,   50,   60,    70, 80,
                                      90, 95, 98, 99, 99.5, 99.9, 99.99, 100};
    printf("\"%s\":{\"count\":%llu,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"percentiles\":[",
           name, (unsigned long long)latency->count, (double)histogram_percentile(latency, 50) / 1e3,
           (double)histogram_percentile(latency, 90) / 1e3, (double)histogram_percentile(latency, 99) / 1e3,
           (double)latency->maximum / 1e3);
    for (size_t i = 0; i < sizeof percents / sizeof percents[0]; i++)
        printf("%s[%g,%.1f]", i > 0 ? "," : "", percents[i],
               (double)histogram_percentile(latency, percents[i]) / 1e3);
    printf("]}");
}

static double cpu_of_thread(void) {
    struct timespec cpu;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    return (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9;
}

// Seconds of processor time of all threads of a process, more exact than ticks.
static double cpu_of_process(pid_t pid) {
    char path[64];
    double seconds = 0;
    glob_t tasks;
    snprintf(path, sizeof path, "/proc/%d/task/*/schedstat", pid);
    if (glob(path, 0, NULL, &tasks) != 0)
        return 0;
    for (size_t i = 0; i < tasks.gl_pathc; i++) {
        FILE *file = fopen(tasks.gl_pathv[i], "r");
        double nanoseconds = 0;
        if (file != NULL && fscanf(file, "%lf", &nanoseconds) == 1)
            seconds += nanoseconds / 1e9;
        if (file != NULL)
            fclose(file);
    }
    globfree(&tasks);
    return seconds;
}

static void watch(struct course *course, int sign) {
    course->own_cpu += sign * cpu_of_thread();
    for (size_t i = 0; i < course->options.watched_count; i++)
        course->watched_cpu[i] += sign * cpu_of_process(course->options.watched[i]);
}

static void print_result(struct course *course) {
    const struct course_options *options = &course->options;
    const struct subscriber_totals *totals = subscriber_stop(course->subscriber);
    double seconds = (double)course->measured_for / 1e9;
    printf("{\"devices\":%u,\"connected\":%u,\"closed\":%u,\"qos\":%d,\"batch\":%u,", options->devices,
           course->connected, course->closed, options->qos, options->batch);
    printf("\"sent\":%llu,\"received\":%llu,\"unmatched\":%llu,\"payload_bytes\":%.1f,",
           (unsigned long long)course->sent, (unsigned long long)totals->received,
           (unsigned long long)totals->unmatched,
           totals->received > 0 ? (double)totals->bytes / (double)totals->received : 0);
    printf("\"measured\":%llu,\"seconds\":%.3f,\"rate\":%.1f,", (unsigned long long)course->measured, seconds,
           seconds > 0 ? (double)course->measured / seconds : 0);
    printf("\"cpu_seconds\":%.3f,\"subscriber_cpu_seconds\":%.3f,", course->own_cpu, totals->cpu);
    printf("\"watched_cpu_seconds\":[");
    for (size_t i = 0; i < options->watched_count; i++)
        printf("%s%.4f", i > 0 ? "," : "", course->watched_cpu[i]);
    printf("],");
    printf("\"ready_seconds\":%.3f,", (double)course->ready_for / 1e9);
    print_latencies("latency_us", &totals->latency);
    putchar(',');
    print_latencies("answer_us", &course->answers);
    printf("}\n");
    fflush(stdout);
}

// --- the course ---

static void print_progress(struct course *course, uint64_t now) {
    static const char *const names[] = {"getting ready", "warming up", "measuring", "draining", "holding"};
    static uint64_t received_before;
    uint64_t received = subscriber_received(course->subscriber);
    if (now - course->last_line < SECOND / course->options.lines)
        return;
    fprintf(stderr, "%-13s %6u connected  %8.0f due  %10llu sent  %10llu received  %9.0f/s\n",
            names[course->phase], course->connected, due(course), (unsigned long long)course->sent,
            (unsigned long long)received,
            (double)(received - received_before) * 1e9 / (double)(now - course->last_line));
    received_before = received;
    course->last_line = now;
}

static void enter(struct course *course, enum course_phase phase, uint64_t now) {
    uint64_t received = subscriber_received(course->subscriber);
    if (course->phase == GETTING_READY)
        course->ready_for = now - course->phase_began;
    if (course->phase == MEASURING) {
        watch(course, 1);
        course->measured = received - course->begun_with;
        course->measured_for = now - course->phase_began;
    }
    if (phase == WARMING_UP) {
        course->rate_began = now;
        course->rate_sent = 0;
    }
    if (phase == MEASURING) {
        course->begun_with = received;
        watch(course, -1);
    }
    subscriber_measure(course->subscriber, phase == MEASURING);
    course->phase = phase;
    course->phase_began = now;
}

static void on_hangup(uv_poll_t *poll, int status, int events) {
    char byte;
    if (status < 0 || read(STDIN_FILENO, &byte, 1) <= 0)
        uv_stop(poll->loop);
}

static void finish(struct course *course) {
    static uv_poll_t input;
    course->actor->finish(course);
    print_result(course);
    uv_timer_stop(&course->tick);
    if (!course->options.hold) {
        uv_stop(&course->loop);
        return;
    }
    uv_poll_init(&course->loop, &input, STDIN_FILENO);
    uv_poll_start(&input, UV_READABLE, on_hangup);
}

static void go_on(struct course *course, uint64_t now) {
    double since = (double)(now - course->phase_began) / 1e9;
    bool all_arrived = under_way(course) == 0;
    bool stuck = now - course->last_progress > PATIENCE;
    switch (course->phase) {
    case GETTING_READY:
        if (stuck)
            course_fail("%u of %u devices are connected, and nothing goes on", course->connected,
                        course->options.devices);
        if (course->actor->is_ready(course) && all_arrived)
            enter(course, course->options.seconds > 0 ? WARMING_UP : DRAINING, now);
        break;
    case WARMING_UP:
        if (since >= course->options.warmup)
            enter(course, MEASURING, now);
        break;
    case MEASURING:
        if (since >= course->options.seconds)
            enter(course, DRAINING, now);
        break;
    case DRAINING:
        if (all_arrived || now - course->last_progress > PATIENCE / 10 || since > DRAIN) {
            enter(course, HOLDING, now);
            finish(course);
        }
        break;
    case HOLDING:
        break;
    }
}

static void on_tick(uv_timer_t *timer) {
    struct course *course = timer->data;
    uint64_t now = bench_clock(), progress = subscriber_received(course->subscriber) + course->connected;
    if (progress != course->last_received)
        course->last_progress = now;
    course->last_received = progress;
    if (course->options.udp && now - course->last_progress > LOST)
        course->given_up += under_way(course);
    if (subscriber_has_ended(course->subscriber))
        course_fail("the broker closed the subscriber's connection");
    if (course->phase == GETTING_READY)
        course->actor->connect(course);
    course->actor->send(course);
    print_progress(course, now);
    go_on(course, now);
}

int course_run(struct course *course) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    const struct course_options *options = &course->options;
    course->subscriber = subscriber_start(options->host, options->broker_port, options->topic, options->qos,
                                          options->devices, options->rate == 0);
    course->last_progress = course->last_line = course->phase_began = bench_clock();
    uv_timer_init(&course->loop, &course->tick);
    course->tick.data = course;
    uv_timer_start(&course->tick, on_tick, 1, 1);
    uv_run(&course->loop, UV_RUN_DEFAULT);
    return course->closed == 0 ? 0 : 1;
}
