// The supervisor; see supervisor.h. It is a process without a loop or threads, so that it can fork.
#include "gateway/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gateway/address.h"
#include "gateway/gateway.h"
#include "gateway/log.h"
#include "gateway/memory.h"

#define BACKOFF_MIN 1  // seconds until a worker that died is started again
#define BACKOFF_MAX 30 // doubled each time up to this
#define LASTS       60 // seconds after which a worker is believed to run well

struct worker {
    pid_t process; // 0: none
    time_t started;
    time_t start_at; // when there is none
    int backoff;
};

struct supervisor {
    struct config *config;
    unsigned count;
    struct worker workers[SUPERVISOR_WORKERS_MAX];
    bool stopping;
    int code;
};

static time_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

// --- ports ---

// Port 0 is a free port, and has to be the same one for all workers.
static bool choose_port(const struct config_channel *channel, int type, struct sockaddr_storage *address) {
    socklen_t length =
        address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    char name[ADDRESS_TEXT_MAX];
    int handle = socket(address->ss_family, type, 0);
    bool chosen = handle >= 0 && bind(handle, (struct sockaddr *)address, length) == 0 &&
                  getsockname(handle, (struct sockaddr *)address, &length) == 0;
    if (!chosen)
        log_error("channel %s: cannot listen on %s %s: %s", channel->name,
                  type == SOCK_STREAM ? "tcp" : "udp", address_write((struct sockaddr *)address, name),
                  strerror(errno));
    if (handle >= 0)
        close(handle);
    return chosen;
}

static bool choose_ports(struct config *config) {
    bool all = true;
    for (size_t i = 0; i < config->channel_count; i++) {
        struct config_channel *channel = &config->channels[i];
        if (channel->has_tcp)
            all = choose_port(channel, SOCK_STREAM, &channel->tcp) && all;
        if (channel->has_udp)
            all = choose_port(channel, SOCK_DGRAM, &channel->udp) && all;
    }
    return all;
}

// --- a worker's life ---

static char *with_number(const char *text, unsigned number) {
    char *result;
    return asprintf(&result, "%s-%u", text, number) < 0 ? must_have(NULL) : result;
}

// In the worker's process.
static _Noreturn void be_worker(struct config *config, unsigned number, unsigned count,
                                const sigset_t *usual) {
    pid_t supervisor = getppid();
    char *client_id = NULL, *store_path = NULL;
    // When the supervisor dies nobody would tell the workers to stop.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != supervisor)
        _exit(1);
    sigprocmask(SIG_SETMASK, usual, NULL);
    config->worker = number;
    config->workers = count;
    if (number > 1) {
        config->mqtt.client_id = client_id = with_number(config->mqtt.client_id, number);
        config->store_path = store_path = with_number(config->store_path, number);
        config->commands.intake = false;
    }
    int code = gateway_run(config);
    config_free(config);
    free(client_id);
    free(store_path);
    exit(code);
}

static void start(struct supervisor *supervisor, unsigned number, const sigset_t *usual) {
    struct worker *worker = &supervisor->workers[number - 1];
    pid_t process = fork();
    if (process == 0)
        be_worker(supervisor->config, number, supervisor->count, usual);
    worker->started = now();
    worker->process = process > 0 ? process : 0;
    worker->start_at = worker->started + worker->backoff;
    if (process < 0)
        log_error("worker %u cannot be started: %s", number, strerror(errno));
}

static void tell_all(const struct supervisor *supervisor, int number) {
    for (unsigned i = 0; i < supervisor->count; i++)
        if (supervisor->workers[i].process != 0)
            kill(supervisor->workers[i].process, number);
}

static void stop(struct supervisor *supervisor) {
    supervisor->stopping = true;
    tell_all(supervisor, SIGTERM);
}

static void log_end(unsigned number, int status, int backoff) {
    if (WIFSIGNALED(status))
        log_error("worker %u was ended by signal %d (%s); it is started again in %d s", number,
                  WTERMSIG(status), strsignal(WTERMSIG(status)), backoff);
    else
        log_error("worker %u ended with code %d; it is started again in %d s", number, WEXITSTATUS(status),
                  backoff);
}

static void note_code(struct supervisor *supervisor, int status) {
    // It may be told to stop before it knows how to.
    bool stopped = WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
    if (!stopped && supervisor->code == 0)
        supervisor->code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

// A worker that gives up by itself as soon as it is started will not do better the next time.
static void take_end(struct supervisor *supervisor, unsigned number, int status) {
    struct worker *worker = &supervisor->workers[number - 1];
    time_t lasted = now() - worker->started;
    bool gave_up = WIFEXITED(status) && WEXITSTATUS(status) != 0 && worker->backoff == 0 && lasted < LASTS;
    worker->process = 0;
    if (supervisor->stopping || gave_up) {
        note_code(supervisor, status);
        if (!supervisor->stopping)
            stop(supervisor);
        return;
    }
    worker->backoff = worker->backoff == 0 || lasted >= LASTS ? BACKOFF_MIN : worker->backoff * 2;
    if (worker->backoff > BACKOFF_MAX)
        worker->backoff = BACKOFF_MAX;
    worker->start_at = now() + worker->backoff;
    log_end(number, status, worker->backoff);
}

static void collect_ends(struct supervisor *supervisor) {
    int status;
    pid_t process;
    while ((process = waitpid(-1, &status, WNOHANG)) > 0)
        for (unsigned i = 0; i < supervisor->count; i++)
            if (supervisor->workers[i].process == process)
                take_end(supervisor, i + 1, status);
}

static void start_due(struct supervisor *supervisor, const sigset_t *usual) {
    for (unsigned i = 0; i < supervisor->count && !supervisor->stopping; i++)
        if (supervisor->workers[i].process == 0 && supervisor->workers[i].start_at <= now())
            start(supervisor, i + 1, usual);
}

static bool any_runs(const struct supervisor *supervisor) {
    for (unsigned i = 0; i < supervisor->count; i++)
        if (supervisor->workers[i].process != 0)
            return true;
    return false;
}

// --- signals ---

static void ignore_fault(void *context, const char *path, const char *problem) {
    // the workers say it
}

// A worker that is started later begins with the registry that the others have.
static void read_registry(struct config *config) {
    struct config_devices *devices = config_read_devices(config, ignore_fault, NULL);
    if (devices == NULL)
        return;
    config_devices_free(config->devices);
    config->devices = devices;
}

static void take_signal(struct supervisor *supervisor, int number) {
    if (number == SIGINT || number == SIGTERM) {
        stop(supervisor);
    } else if (number == SIGHUP || number == SIGUSR1) {
        if (number == SIGHUP)
            read_registry(supervisor->config);
        tell_all(supervisor, number);
    }
}

int supervisor_run(struct config *config, unsigned count) {
    struct supervisor supervisor = {.config = config, .count = count};
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD};
    const struct timespec second = {.tv_sec = 1};
    sigset_t signals, usual;
    log_setup(config->log_level, config->log_format, 0);
    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++)
        sigaddset(&signals, caught[i]);
    sigprocmask(SIG_BLOCK, &signals, &usual);
    if (!choose_ports(config))
        return 1;
    start_due(&supervisor, &usual);
    while (any_runs(&supervisor) || !supervisor.stopping) {
        int number = sigtimedwait(&signals, NULL, &second);
        collect_ends(&supervisor);
        take_signal(&supervisor, number);
        start_due(&supervisor, &usual);
    }
    return supervisor.code;
}
