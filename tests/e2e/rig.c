// The rig's processes: the broker and the gateway; see rig.h.
#include "tests/e2e/rig_parts.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_FIRST  2     // milliseconds between two looks at a condition, which grow
#define POLL_LAST   100   // to these: a busy machine has other things to do
#define TEST_TIME   300   // seconds after which a test that hangs is killed
#define WORKERS_MAX 8     // that a test starts
#define PORT_FIRST  10000 // below the ports that the kernel gives away: nobody takes one while a
#define PORT_COUNT  22000 // broker is away

static struct rig *the_rig; // of this test, for rig_clean()

// --- waiting ---

#define ROWS_MAX 64

size_t *rig_rows(size_t count) {
    static size_t rows[ROWS_MAX];
    cr_assert(count <= ROWS_MAX);
    for (size_t i = 0; i < count; i++)
        rows[i] = i;
    return rows;
}

int64_t rig_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Short at first, so that what comes soon is noticed soon.
static int64_t poll_interval(int64_t waited) {
    int64_t interval = waited / 8;
    return interval < POLL_FIRST ? POLL_FIRST : interval > POLL_LAST ? POLL_LAST : interval;
}

bool rig_wait(rig_condition *condition, void *context, int milliseconds) {
    int64_t begun = rig_clock();
    while (!condition(context)) {
        int64_t waited = rig_clock() - begun;
        if (waited > milliseconds)
            return false;
        usleep(1000 * (useconds_t)poll_interval(waited));
    }
    return true;
}

void rig_wait_until(int64_t time) {
    for (int64_t left; (left = time - rig_clock()) > 0;)
        usleep(1000 * (useconds_t)left);
}

// --- files ---

static char *read_file(const char *path) {
    char *text = NULL;
    size_t length = 0;
    FILE *file = fopen(path, "r"), *memory = open_memstream(&text, &length);
    char part[4096];
    for (size_t got; file != NULL && (got = fread(part, 1, sizeof part, file)) > 0;)
        fwrite(part, 1, got, memory);
    fclose(memory);
    if (file != NULL)
        fclose(file);
    return text;
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL, "cannot write %s", path);
    fputs(text, file);
    fclose(file);
}

void rig_write_file(struct rig *rig, const char *name, const char *text) {
    char path[128], temporary[136];
    snprintf(path, sizeof path, "%s/%s", rig->directory, name);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    write_file(temporary, text);
    cr_assert(rename(temporary, path) == 0);
}

void rig_write_json(struct rig *rig, const char *name, const char *text) {
    json_t *json = rig_json(text);
    char *dump = json_dumps(json, JSON_INDENT(2));
    rig_write_file(rig, name, dump);
    free(dump);
    json_decref(json);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk) {
    return remove(path);
}

// --- processes ---

struct ending {
    pid_t pid;
    int status;
};

static bool has_ended(void *context) {
    struct ending *ending = context;
    return waitpid(ending->pid, &ending->status, WNOHANG) == ending->pid;
}

// The exit code, or minus the signal.
static int wait_for_end(pid_t *pid, const char *name) {
    struct ending ending = {.pid = *pid};
    cr_assert(rig_wait(has_ended, &ending, RIG_DEADLINE), "%s does not end", name);
    *pid = 0;
    return WIFEXITED(ending.status) ? WEXITSTATUS(ending.status) : -WTERMSIG(ending.status);
}

static void forget_environment(void) {
    unsetenv("TRACKBUS_MQTT_URL");
    unsetenv("TRACKBUS_MQTT_USERNAME");
    unsetenv("TRACKBUS_MQTT_PASSWORD");
    unsetenv("TRACKBUS_TOPIC_PREFIX");
    unsetenv("TRACKBUS_STORE");
}

static pid_t spawn(const char *log_path, const char *const *arguments) {
    pid_t parent = getpid(), pid = fork();
    cr_assert(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close_range(3, ~0U, 0);
    forget_environment();
    execvp(arguments[0], (char *const *)arguments);
    _exit(127);
}

// --- the rig ---

static struct rig *make_rig(void) {
    struct rig *rig = calloc(1, sizeof *rig);
    make_temporary(rig->directory, "test");
    snprintf(rig->log_path, sizeof rig->log_path, "%s/gateway.log", rig->directory);
    rig->topic_prefix = "trackbus";
    return rig;
}

struct rig *rig_new(void) {
    // Not Criterion's timeout, which leaks now and then: the whole run would count as failed.
    alarm(TEST_TIME);
    prctl(PR_SET_CHILD_SUBREAPER, 1); // of a gateway's workers
    the_rig = make_rig();
    return the_rig;
}

struct rig *rig_beside(struct rig *rig) {
    struct rig *other = make_rig();
    other->broker_port = rig->broker_port;
    other->client = rig->client;
    other->topic_prefix = rig->topic_prefix;
    rig->beside = other;
    return other;
}

static void show_log(const struct rig *rig, const char *name) {
    char path[96];
    snprintf(path, sizeof path, "%s/%s", rig->directory, name);
    char *text = read_file(path);
    fprintf(stderr, "--- %s\n%s", name, text);
    free(text);
}

// The workers of a killed gateway stop by themselves, but perhaps only after the test's files are gone.
static void end_workers(struct rig *rig) {
    for (unsigned i = 1; rig->workers > 0 && i <= WORKERS_MAX; i++) {
        pid_t pid = rig_worker(rig, i);
        if (pid > 0 && waitpid(pid, NULL, WNOHANG) == 0) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
    }
}

static void end_process(pid_t pid) {
    if (pid == 0)
        return;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void clean_gateway(struct rig *rig, bool show) {
    if (show)
        show_log(rig, "gateway.log");
    end_process(rig->gateway);
    end_workers(rig);
    nftw(rig->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(rig);
}

void rig_clean(void) {
    struct rig *rig = the_rig;
    if (rig == NULL)
        return;
    for (struct rig *other = rig->beside, *next; other != NULL; other = next) {
        next = other->beside;
        clean_gateway(other, !rig->finished);
    }
    if (!rig->finished) {
        show_log(rig, "broker.log");
        rig_client_show(rig->client);
    }
    rig_client_free(rig->client);
    end_process(rig->broker);
    clean_gateway(rig, !rig->finished);
    the_rig = NULL;
}

void rig_finish(struct rig *rig) {
    for (struct rig *other = rig->beside; other != NULL; other = other->beside)
        if (other->gateway != 0)
            rig_gateway_stop(other);
    rig_gateway_stop(rig);
    rig->finished = true;
}

// --- the broker ---

static bool is_free(int type, int port) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int probe = socket(AF_INET, type, 0);
    bool bound = bind(probe, (struct sockaddr *)&address, sizeof address) == 0;
    close(probe);
    return bound;
}

// A port is given out once: tests run side by side, and what listens there comes later. The claim is a name of the
// system's, which goes with this process.
static bool claim(int port) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "trackbus-tests-port-%d", port);
    int held = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    bool ours = bind(held, (struct sockaddr *)&name, size) == 0;
    if (!ours)
        close(held);
    return ours;
}

int rig_free_port(void) {
    static unsigned seed;
    int port;
    if (seed == 0)
        seed = (unsigned)getpid() * 7919U + (unsigned)rig_clock();
    do
        port = PORT_FIRST + (int)((unsigned)rand_r(&seed) % PORT_COUNT);
    while (!claim(port) || !is_free(SOCK_STREAM, port) || !is_free(SOCK_DGRAM, port));
    return port;
}

static void write_broker_config(const struct rig *rig, const char *extra, char *path, size_t capacity) {
    char text[2048];
    snprintf(path, capacity, "%s/broker.conf", rig->directory);
    snprintf(text, sizeof text,
             "listener %d 127.0.0.1\n"
             "allow_anonymous %s\n"
             "user root\n"
             "max_inflight_messages 0\n"
             "max_queued_messages 0\n"
             "queue_qos0_messages true\n"
             "persistence_location %s/\n"
             "log_dest stderr\n"
             "%s",
             rig->broker_port, extra != NULL && strstr(extra, "password_file") != NULL ? "false" : "true",
             rig->directory, extra != NULL ? extra : "");
    write_file(path, text);
}

static bool broker_answers_or_died(void *context) {
    struct rig *rig = context;
    int status, probe = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)rig->broker_port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool answers = connect(probe, (struct sockaddr *)&address, sizeof address) == 0;
    close(probe);
    if (waitpid(rig->broker, &status, WNOHANG) != rig->broker)
        return answers;
    rig->broker = 0;
    return true;
}

static bool try_broker(struct rig *rig, const char *extra) {
    char config[96], log[96];
    snprintf(log, sizeof log, "%s/broker.log", rig->directory);
    write_broker_config(rig, extra, config, sizeof config);
    rig->broker = spawn(log, (const char *[]){"mosquitto", "-c", config, NULL});
    return rig_wait(broker_answers_or_died, rig, RIG_DEADLINE) && rig->broker != 0;
}

void rig_broker_start(struct rig *rig, const char *extra) {
    bool chosen = rig->broker_port != 0, runs = false;
    for (int i = 0; i < 5 && !runs; i++) {
        rig->broker_port = chosen ? rig->broker_port : rig_free_port();
        runs = try_broker(rig, extra);
    }
    cr_assert(runs, "mosquitto does not start");
}

void rig_broker_reserve(struct rig *rig) {
    rig->broker_port = rig_free_port();
}

void rig_broker_kill(struct rig *rig) {
    end_process(rig->broker);
    rig->broker = 0;
}

// What the broker keeps on its disk.
static void database_of(const struct rig *rig, const char *suffix, char *path, size_t capacity) {
    snprintf(path, capacity, "%s/mosquitto.db%s", rig->directory, suffix);
}

void rig_broker_wipe(struct rig *rig) {
    char path[96];
    database_of(rig, "", path, sizeof path);
    remove(path);
}

static bool has_saved(void *context) {
    char path[96];
    database_of(context, "", path, sizeof path);
    return access(path, F_OK) == 0; // it writes another file first, and renames that
}

void rig_broker_save(struct rig *rig) {
    char path[96], old[96];
    database_of(rig, "", path, sizeof path);
    database_of(rig, ".old", old, sizeof old);
    remove(path);
    cr_assert(kill(rig->broker, SIGUSR1) == 0);
    cr_assert(rig_wait(has_saved, rig, RIG_DEADLINE), "the broker does not save");
    cr_assert(rename(path, old) == 0);
}

void rig_broker_restore(struct rig *rig) {
    char path[96], old[96];
    database_of(rig, "", path, sizeof path);
    database_of(rig, ".old", old, sizeof old);
    cr_assert(rename(old, path) == 0);
}

void rig_broker_fall_back(struct rig *rig, const char *extra) {
    rig_broker_kill(rig);
    rig_broker_restore(rig);
    rig_broker_start(rig, extra);
}

void rig_broker_freeze(struct rig *rig) {
    cr_assert(kill(rig->broker, SIGSTOP) == 0);
}

void rig_broker_thaw(struct rig *rig) {
    cr_assert(kill(rig->broker, SIGCONT) == 0);
}

const char *rig_broker_password_lines(struct rig *rig) {
    static char lines[128];
    char path[96];
    int status;
    snprintf(path, sizeof path, "%s/passwords", rig->directory);
    pid_t pid = spawn(rig->log_path,
                      (const char *[]){"mosquitto_passwd", "-c", "-b", path, RIG_USER, RIG_PASSWORD, NULL});
    cr_assert(waitpid(pid, &status, 0) == pid && status == 0, "mosquitto_passwd fails");
    snprintf(lines, sizeof lines, "password_file %s\n", path);
    return lines;
}

// --- the gateway ---

static const char *spoken; // version of MQTT; NULL: any

void rig_speak(const char *version) {
    spoken = version;
}

static bool sharing; // the key of commands

void rig_share_key(void) {
    sharing = true;
}

static void add_key(struct rig *rig, json_t *config) {
    char path[96];
    rig_write_file(rig, "commands.key", RIG_KEY "\n");
    snprintf(path, sizeof path, "%s/commands.key", rig->directory);
    json_object_set_new(config, "commands", json_pack("{s:s}", "key_file", path));
}

static json_t *standard_config(const struct rig *rig) {
    char url[64], store[96];
    snprintf(url, sizeof url, "mqtt://127.0.0.1:%d", rig->broker_port);
    snprintf(store, sizeof store, "%s/store.db", rig->directory);
    return json_pack("{s:[{s:i, s:s, s:s, s:s, s:s}], s:{s:s, s:s*}, s:{s:s}}", "channels", "id", 1, "name",
                     "mictrack", "protocol", "mictrack", "tcp", "127.0.0.1:0", "udp", "127.0.0.1:0", "mqtt",
                     "url", url, "version", spoken, "store", "path", store);
}

void rig_write_config(struct rig *rig, const char *changes, char *path, size_t capacity) {
    json_t *config = standard_config(rig), *change = rig_json(changes != NULL ? changes : "{}");
    if (sharing)
        add_key(rig, config);
    json_object_update_recursive(config, change);
    rig->sockets = 0;
    size_t i;
    json_t *channel;
    json_array_foreach(json_object_get(config, "channels"), i, channel) {
        rig->sockets += json_object_get(channel, "tcp") != NULL;
        rig->sockets += json_object_get(channel, "udp") != NULL;
    }
    snprintf(path, capacity, "%s/trackbus.json", rig->directory);
    json_dump_file(config, path, JSON_INDENT(2));
    json_decref(change);
    json_decref(config);
}

// Programs that are started from now on have that clock.
static void set_clock(const char *clock) {
    glob_t found;
    cr_assert(glob("/usr/lib/*/faketime/libfaketime.so.1", 0, NULL, &found) == 0,
              "faketime is not installed");
    setenv("LD_PRELOAD", found.gl_pathv[0], true);
    setenv("FAKETIME", clock, true);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", true);
    globfree(&found);
}

static void unset_clock(void) {
    unsetenv("LD_PRELOAD");
    unsetenv("FAKETIME");
    unsetenv("ASAN_OPTIONS");
}

// The one that was built with the tests, unless another is to be tried: see tests/races.
static const char *gateway_binary(void) {
    const char *other = getenv("TESTED_GATEWAY");
    return other != NULL ? other : TRACKBUS_BINARY;
}

// Of channels; one that takes no commands in beside another says its own part.
static size_t count_states(struct rig *rig) {
    return rig_count(rig, "state/gw/channels/+") + rig_count(rig, "state/gw/instances/+/channels/+");
}

void rig_gateway_spawn(struct rig *rig, const char *changes) {
    char config[96], workers[16];
    rig->states = rig->client != NULL ? count_states(rig) : 0;
    rig_write_config(rig, changes, config, sizeof config);
    remove(rig->log_path);
    snprintf(workers, sizeof workers, "%u", rig->workers);
    if (rig->clock != NULL)
        set_clock(rig->clock);
    rig->gateway =
        spawn(rig->log_path, (const char *[]){gateway_binary(), "run", "-c", config,
                                              rig->workers > 0 ? "--workers" : NULL, workers, NULL});
    if (rig->clock != NULL)
        unset_clock();
}

static bool listens(void *context) {
    struct rig *rig = context;
    size_t processes = rig->workers > 0 ? rig->workers : 1;
    return rig_log_count(rig, "listening for") + rig_log_count(rig, "cannot listen on") ==
           rig->sockets * processes;
}

void rig_gateway_start(struct rig *rig, const char *changes) {
    rig_gateway_spawn(rig, changes);
    cr_assert(rig_wait(listens, rig, RIG_DEADLINE), "the gateway does not listen");
}

void rig_gateway_signal(struct rig *rig, int number) {
    cr_assert(rig->gateway > 0 && kill(rig->gateway, number) == 0);
}

pid_t rig_worker(struct rig *rig, unsigned number) {
    char text[48];
    char *log = read_file(rig->log_path);
    pid_t pid = 0;
    snprintf(text, sizeof text, "worker %u is process ", number);
    for (const char *at = log; (at = strstr(at, text)) != NULL;) {
        at += strlen(text);
        pid = atoi(at); // the last one counts
    }
    free(log);
    return pid;
}

int rig_orphan_wait(pid_t process) {
    return wait_for_end(&process, "a worker");
}

int rig_gateway_wait(struct rig *rig) {
    return wait_for_end(&rig->gateway, "the gateway");
}

void rig_gateway_stop(struct rig *rig) {
    rig_gateway_signal(rig, SIGTERM);
    int code = rig_gateway_wait(rig);
    cr_assert(code == 0, "the gateway ended with %d", code);
    cr_assert(!rig_log_has(rig, "runtime error: "), "undefined behaviour"); // which does not end it
}

void rig_gateway_kill(struct rig *rig) {
    rig_gateway_signal(rig, SIGKILL);
    cr_assert(rig_gateway_wait(rig) == -SIGKILL, "the gateway had ended already");
}

void rig_expect_no_start(struct rig *rig, const char *changes, const char *why) {
    if (rig->broker_port == 0)
        rig_broker_reserve(rig);
    rig_gateway_spawn(rig, changes);
    int code = rig_gateway_wait(rig);
    cr_assert(code == 1, "the gateway ended with %d", code);
    cr_assert(rig_log_has(rig, why), "the log does not say: %s", why);
}

static bool has_state(void *context) {
    const struct rig *rig = context;
    return count_states(context) > rig->states;
}

void rig_expect_state(struct rig *rig) {
    cr_assert(rig_wait(has_state, rig, RIG_DEADLINE), "the gateway publishes no state");
}

struct rig *rig_with_broker(const char *extra) {
    struct rig *rig = rig_new();
    rig_broker_start(rig, extra);
    rig_client_start(rig);
    return rig;
}

struct rig *rig_up_at(const char *clock, const char *changes) {
    struct rig *rig = rig_with_broker(NULL);
    rig->clock = clock;
    rig_gateway_start(rig, changes);
    rig_expect_log(rig, ": connected");
    rig_expect_state(rig);
    return rig;
}

struct rig *rig_up(const char *changes) {
    return rig_up_at(NULL, changes);
}

// --- the log ---

size_t rig_log_count(struct rig *rig, const char *text) {
    size_t count = 0;
    char *log = read_file(rig->log_path);
    for (const char *at = log; (at = strstr(at, text)) != NULL; at += strlen(text))
        count++;
    free(log);
    return count;
}

bool rig_log_has(struct rig *rig, const char *text) {
    return rig_log_count(rig, text) > 0;
}

struct log_search {
    struct rig *rig;
    const char *text;
    size_t least; // times
};

static bool log_has(void *context) {
    const struct log_search *search = context;
    return rig_log_count(search->rig, search->text) >= search->least;
}

void rig_expect_log(struct rig *rig, const char *text) {
    struct log_search search = {.rig = rig, .text = text, .least = 1};
    cr_assert(rig_wait(log_has, &search, RIG_DEADLINE), "the log does not say: %s", text);
}

void rig_expect_log_times(struct rig *rig, const char *text, size_t least) {
    struct log_search search = {.rig = rig, .text = text, .least = least};
    cr_assert(rig_wait(log_has, &search, RIG_DEADLINE), "the log does not say %zu times: %s", least, text);
}

static bool log_counts(void *context) {
    const struct log_search *search = context;
    rig_gateway_signal(search->rig, SIGUSR1);
    return log_has(context);
}

void rig_expect_counters_within(struct rig *rig, const char *text, int milliseconds) {
    struct log_search search = {.rig = rig, .text = text, .least = 1};
    cr_assert(rig_wait(log_counts, &search, milliseconds), "the counters do not say: %s", text);
}

void rig_expect_counters(struct rig *rig, const char *text) {
    rig_expect_counters_within(rig, text, RIG_DEADLINE);
}

// "… channel NAME: listening for … devices on tcp 127.0.0.1:40001"
static int port_of(struct rig *rig, const char *channel, const char *transport) {
    char start[96], middle[48];
    char *log = read_file(rig->log_path);
    int port = 0;
    snprintf(start, sizeof start, "channel %s: ", channel);
    snprintf(middle, sizeof middle, "devices on %s ", transport);
    for (char *rest = log, *line; port == 0 && (line = strsep(&rest, "\n")) != NULL;) {
        const char *address = strstr(line, middle);
        if (strstr(line, start) != NULL && address != NULL)
            port = atoi(strrchr(address, ':') + 1);
    }
    free(log);
    cr_assert(port > 0, "the log names no %s port of channel %s", transport, channel);
    return port;
}

int rig_tcp_port(struct rig *rig, const char *channel) {
    return port_of(rig, channel, "tcp");
}

int rig_udp_port(struct rig *rig, const char *channel) {
    return port_of(rig, channel, "udp");
}
