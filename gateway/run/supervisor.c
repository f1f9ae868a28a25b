// The supervisor; see supervisor.h. It has neither a loop nor threads, so that it can fork.
#include "gateway/run/supervisor.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gateway/base/address.h"
#include "gateway/base/hex.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/store.h"
#include "gateway/config/reload.h"
#include "gateway/run/gateway.h"
#include "gateway/run/service.h"

#define BACKOFF_MIN 1  // seconds until a worker that died is started again
#define BACKOFF_MAX 30 // doubled each time up to this
#define LASTS       60 // seconds after which a worker counts as running well

// What a worker is for: to serve devices, or to hand over what an earlier run with more workers has left
// behind.
enum task { TASK_NONE, TASK_SERVE, TASK_HAND_OVER };

struct worker {
    enum task task;
    pid_t process; // 0: none
    time_t started;
    time_t start_at; // when to start one, if there is none
    int backoff;
    struct sign *sign; // that it gives
};

struct supervisor {
    struct config *config;
    const struct gateway_guest *guest;
    unsigned count;                                // of workers that serve
    struct worker workers[SUPERVISOR_WORKERS_MAX]; // number 1 first
    sigset_t usual;                                // signals that were blocked before
    uint64_t patience; // milliseconds that the service manager waits for a sign of life; 0: it wants none
    bool ready, stopping;
    int code;
};

static time_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

// --- ports ---

// Takes the port, and reads into address which one it is.
static bool take_port(int handle, int type, struct sockaddr_storage *address) {
    socklen_t length =
        address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    bool tcp = type == SOCK_STREAM;
    int on = 1; // connections of an earlier run may linger at a port that is free
    return (!tcp || setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0) &&
           bind(handle, (struct sockaddr *)address, length) == 0 && (!tcp || listen(handle, 1) == 0) &&
           getsockname(handle, (struct sockaddr *)address, &length) == 0;
}

// Port 0 means a free port, which has to be the same one for all workers. Returns a socket that has the port,
// or -1.
static int choose_port(const struct config_channel *channel, int type, struct sockaddr_storage *address) {
    char name[ADDRESS_TEXT_MAX];
    int handle = socket(address->ss_family, type | SOCK_CLOEXEC, 0);
    if (handle >= 0 && take_port(handle, type, address))
        return handle;
    log_error("channel %s: cannot listen on %s %s: %s", channel->name, type == SOCK_STREAM ? "tcp" : "udp",
              address_write((struct sockaddr *)address, name), strerror(errno));
    if (handle >= 0)
        close(handle);
    return -1;
}

// Workers share their ports, so two channels with the same port would go unnoticed. That is why all ports are
// held until the last one is chosen.
static bool choose_ports(struct config *config) {
    int *handles = must_have(calloc(2 * config->channel_count + 1, sizeof *handles));
    size_t count = 0;
    bool all = true;
    for (size_t i = 0; i < config->channel_count; i++) {
        struct config_channel *channel = &config->channels[i];
        if (channel->has_tcp)
            handles[count++] = choose_port(channel, SOCK_STREAM, &channel->tcp);
        if (channel->has_udp)
            handles[count++] = choose_port(channel, SOCK_DGRAM, &channel->udp);
    }
    for (size_t i = 0; i < count; i++) {
        all = all && handles[i] >= 0;
        if (handles[i] >= 0)
            close(handles[i]);
    }
    free(handles);
    return all;
}

// --- stores of an earlier run ---

// The number of the first worker, from first on, that has a store; 0 when there is none.
static unsigned find_leftover(const struct config *config, unsigned first) {
    for (unsigned number = first; number <= SUPERVISOR_WORKERS_MAX; number++) {
        char *path = text_format("%s-%u", config->store_path, number);
        bool exists = access(path, F_OK) == 0;
        free(path);
        if (exists)
            return number;
    }
    return 0;
}

void supervisor_warn_of_leftovers(const struct config *config) {
    for (unsigned number = find_leftover(config, 2); number != 0; number = find_leftover(config, number + 1))
        log_error("the store %s-%u is left over from a run with more workers: what waits in it is not sent; "
                  "run 'trackbus run --workers 1' once to send it",
                  config->store_path, number);
}

static void take_leftovers(struct supervisor *supervisor) {
    unsigned number = supervisor->count;
    while ((number = find_leftover(supervisor->config, number + 1)) != 0) {
        log_warning("the store %s-%u is left over from a run with more workers: sending what waits in it",
                    supervisor->config->store_path, number);
        supervisor->workers[number - 1].task = TASK_HAND_OVER;
    }
}

// --- the key ---

// Each worker has a store, but they hand over commands to each other: all sign with the key of the first one's.
static void share_key(struct config *config) {
    char secret[STORE_SECRET_MAX];
    uint8_t random[32];
    if (config->commands.key != NULL)
        return;
    if (!store_read_secret(config->store_path, secret)) { // the first worker says why, or puts it right
        must_have(getrandom(random, sizeof random, 0) == sizeof random ? random : NULL);
        hex_write(random, sizeof random, secret);
    }
    config->commands.key = must_have(strdup(secret));
    config->commands.key_length = strlen(secret);
}

// --- a worker's life ---

static const int passed_on[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
#define PASSED_ON (sizeof passed_on / sizeof passed_on[0])

// Signals for the supervisor alone do not reach the worker. Those that come before the worker is ready wait.
static void set_signals(const sigset_t *usual) {
    sigset_t blocked = *usual;
    for (size_t i = 0; i < PASSED_ON; i++)
        sigaddset(&blocked, passed_on[i]);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    setpgid(0, 0); // Ctrl-C at a terminal goes to the whole group
}

// What makes worker number an instance of its own; the names are for all but the first.
static void set_instance(const struct supervisor *supervisor, unsigned number, const char *client_id,
                         const char *store_path) {
    struct config *config = supervisor->config;
    config->worker = number;
    config->workers = supervisor->count;
    if (number > 1) {
        config->mqtt.client_id = client_id;
        config->store_path = store_path;
        config->commands.intake = false;
    }
    config->hand_over = supervisor->workers[number - 1].task == TASK_HAND_OVER;
    if (config->hand_over)
        config_drop_channels(config);
}

// In the worker's process.
static _Noreturn void be_worker(struct supervisor *supervisor, unsigned number, pid_t parent) {
    struct config *config = supervisor->config;
    char *client_id = text_format("%s-%u", config->mqtt.client_id, number);
    char *store_path = text_format("%s-%u", config->store_path, number);
    // If the supervisor dies, nobody else tells the workers to stop.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    set_signals(&supervisor->usual);
    set_instance(supervisor, number, client_id, store_path);
    int code = gateway_run(config, supervisor->workers[number - 1].sign, supervisor->guest);
    config_free(config);
    free(client_id);
    free(store_path);
    exit(code);
}

static void start(struct supervisor *supervisor, unsigned number) {
    struct worker *worker = &supervisor->workers[number - 1];
    worker->sign->ready = false;
    pid_t parent = getpid(), process = fork();
    if (process == 0)
        be_worker(supervisor, number, parent);
    worker->started = now();
    worker->process = process > 0 ? process : 0;
    worker->start_at = worker->started + worker->backoff;
    if (process > 0)
        log_info("worker %u is process %d", number, (int)process);
    else
        log_error("worker %u cannot be started: %s", number, strerror(errno));
}

static void tell_all(const struct supervisor *supervisor, int number) {
    for (unsigned i = 0; i < SUPERVISOR_WORKERS_MAX; i++)
        if (supervisor->workers[i].process != 0)
            kill(supervisor->workers[i].process, number);
}

// The second time: without waiting, which is what SIGINT alone means to a worker that is already stopping.
static void stop(struct supervisor *supervisor) {
    tell_all(supervisor, supervisor->stopping ? SIGINT : SIGTERM);
    if (!supervisor->stopping)
        service_tell("STOPPING=1");
    supervisor->stopping = true;
}

static void log_end(unsigned number, int status, int backoff) {
    if (WIFSIGNALED(status))
        log_error("worker %u was killed by signal %d (%s); restarting in %d s", number, WTERMSIG(status),
                  strsignal(WTERMSIG(status)), backoff);
    else
        log_error("worker %u exited with code %d; restarting in %d s", number, WEXITSTATUS(status), backoff);
}

static void note_code(struct supervisor *supervisor, int status) {
    if (supervisor->code == 0)
        supervisor->code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void start_later(struct worker *worker, unsigned number, int status) {
    bool lasted = now() - worker->started >= LASTS;
    worker->backoff = worker->backoff == 0 || lasted ? BACKOFF_MIN : worker->backoff * 2;
    if (worker->backoff > BACKOFF_MAX)
        worker->backoff = BACKOFF_MAX;
    worker->start_at = now() + worker->backoff;
    log_end(number, status, worker->backoff);
}

// A worker that gives up right after its first start will not do better the next time.
static bool gave_up(const struct worker *worker, int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) != 0 && worker->backoff == 0 &&
           now() - worker->started < LASTS;
}

static void end_handing_over(struct worker *worker, unsigned number, int status) {
    worker->task = TASK_NONE;
    if (WEXITSTATUS(status) != 0)
        log_error("worker %u cannot send what is left over from an earlier run", number);
}

static void take_end(struct supervisor *supervisor, unsigned number, int status) {
    struct worker *worker = &supervisor->workers[number - 1];
    worker->process = 0;
    if (worker->task == TASK_HAND_OVER && WIFEXITED(status)) {
        end_handing_over(worker, number, status);
    } else if (supervisor->stopping) {
        note_code(supervisor, status);
    } else if (gave_up(worker, status)) {
        log_error("worker %u failed to start (code %d); stopping all workers", number, WEXITSTATUS(status));
        note_code(supervisor, status);
        stop(supervisor);
    } else {
        start_later(worker, number, status);
    }
}

static void collect_ends(struct supervisor *supervisor) {
    int status;
    pid_t process;
    while ((process = waitpid(-1, &status, WNOHANG)) > 0)
        for (unsigned i = 0; i < SUPERVISOR_WORKERS_MAX; i++)
            if (supervisor->workers[i].process == process)
                take_end(supervisor, i + 1, status);
}

static bool is_due(const struct worker *worker) {
    return worker->task != TASK_NONE && worker->process == 0 && worker->start_at <= now();
}

static void start_due(struct supervisor *supervisor) {
    for (unsigned i = 0; i < SUPERVISOR_WORKERS_MAX && !supervisor->stopping; i++)
        if (is_due(&supervisor->workers[i]))
            start(supervisor, i + 1);
}

static bool any_runs(const struct supervisor *supervisor) {
    for (unsigned i = 0; i < SUPERVISOR_WORKERS_MAX; i++)
        if (supervisor->workers[i].process != 0)
            return true;
    return false;
}

// --- signs of life ---

static void share_signs(struct supervisor *supervisor) {
    struct sign *signs = mmap(NULL, SUPERVISOR_WORKERS_MAX * sizeof *signs, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must_have(signs != MAP_FAILED ? signs : NULL);
    supervisor->patience = service_patience();
    for (unsigned i = 0; i < SUPERVISOR_WORKERS_MAX; i++) {
        signs[i].interval = supervisor->patience / 2;
        supervisor->workers[i].sign = &signs[i];
    }
}

// Ready is said once, when all that serve are.
static void tell_ready(struct supervisor *supervisor) {
    for (unsigned i = 0; i < supervisor->count; i++)
        if (!supervisor->workers[i].sign->ready)
            return;
    supervisor->ready = true;
    service_tell("READY=1");
}

// A worker whose loop stands still cannot even be told to stop.
static void end_silent(const struct supervisor *supervisor) {
    for (unsigned i = 0; i < SUPERVISOR_WORKERS_MAX; i++) {
        const struct worker *worker = &supervisor->workers[i];
        if (worker->process == 0 || !worker->sign->ready)
            continue;
        uint32_t silence = service_silence(worker->sign, service_clock());
        if (silence <= supervisor->patience)
            continue;
        log_error("worker %u gives no sign of life for %u ms; killing it", i + 1, (unsigned)silence);
        kill(worker->process, SIGKILL);
    }
}

static void watch_over(struct supervisor *supervisor) {
    if (!supervisor->ready && !supervisor->stopping)
        tell_ready(supervisor);
    if (supervisor->patience == 0)
        return;
    service_tell("WATCHDOG=1");
    end_silent(supervisor);
}

// How long to wait for a signal: a second, or less where signs of life are wanted more often.
static struct timespec turn(const struct supervisor *supervisor) {
    uint64_t milliseconds = supervisor->patience / 4;
    if (milliseconds == 0 || milliseconds >= 1000)
        return (struct timespec){.tv_sec = 1};
    return (struct timespec){.tv_nsec = (long)milliseconds * 1000000};
}

// --- signals ---

static void ignore_fault(void *context, const char *path, const char *problem) {
    // the workers log it
}

// So that a worker that is started later has the same configuration as the others.
static void read_again(struct config *config) {
    char *restart;
    struct config_devices *devices = config_reload(config, &restart, ignore_fault, NULL);
    if (devices == NULL)
        return;
    free(restart); // the workers log that too
    config_devices_free(config->devices);
    config->devices = devices;
}

static void take_signal(struct supervisor *supervisor, int number) {
    if (number == SIGINT || number == SIGTERM) {
        stop(supervisor);
    } else if (number == SIGHUP || number == SIGUSR1) {
        if (number == SIGHUP)
            read_again(supervisor->config);
        tell_all(supervisor, number);
    }
}

static void catch_signals(struct supervisor *supervisor, sigset_t *signals) {
    sigemptyset(signals);
    sigaddset(signals, SIGCHLD);
    for (size_t i = 0; i < PASSED_ON; i++)
        sigaddset(signals, passed_on[i]);
    sigprocmask(SIG_BLOCK, signals, &supervisor->usual);
}

int supervisor_run(struct config *config, unsigned count, const struct gateway_guest *guest) {
    struct supervisor supervisor = {.config = config, .guest = guest, .count = count};
    sigset_t signals;
    log_setup(config->log_level, config->log_format, 0);
    if (!choose_ports(config))
        return 1;
    catch_signals(&supervisor, &signals);
    share_signs(&supervisor);
    const struct timespec at_most = turn(&supervisor);
    for (unsigned i = 0; i < count; i++)
        supervisor.workers[i].task = TASK_SERVE;
    take_leftovers(&supervisor);
    share_key(config);
    start_due(&supervisor);
    while (any_runs(&supervisor) || !supervisor.stopping) {
        int number = sigtimedwait(&signals, NULL, &at_most);
        collect_ends(&supervisor);
        take_signal(&supervisor, number);
        start_due(&supervisor);
        watch_over(&supervisor);
    }
    return supervisor.code;
}
