// Watching the fleet; see watch.h.
#include "gateway/watch/watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "gateway/base/clean.h"
#include "gateway/base/clock.h"
#include "gateway/base/limiter.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/fleet/listener.h"
#include "gateway/watch/keys.h"
#include "gateway/watch/line.h"
#include "gateway/watch/terminal.h"
#include "gateway/watch/view.h"

#define REDRAW       200 // milliseconds
#define RATE_SECONDS 10  // over which messages are counted
#define NOTE_MAX     256 // bytes
#define ODD_LINES    5   // per second, about payloads that are not understood

struct watch {
    const struct config *config;
    const char *device; // the only one that is shown: its ident, id or name; or NULL
    bool live;          // a screen, not lines
    struct view_choice choice;
    uv_loop_t loop;
    struct mqtt_link *link;
    struct listener *listener;
    bool states_come; // since the last look
    bool was_up, is_up;
    char broker[NOTE_MAX];
    unsigned counts[RATE_SECONDS]; // messages in each of the last seconds
    uint64_t second;               // the last one in counts
    unsigned long long odd;        // payloads that were not understood
    struct limiter odd_limiter;
    bool changed;
    uint64_t drawn; // second of the last redraw
    uv_timer_t redraw;
    uv_signal_t signals[5];
    uv_poll_t keys;
    bool stopping, stopped;
    int code;
};

// The last fault in the log. Other threads log too.
static struct {
    pthread_mutex_t lock;
    enum log_level level;
    char text[NOTE_MAX];
} note = {.lock = PTHREAD_MUTEX_INITIALIZER};

// --- ending ---

static void stop(struct watch *watch) {
    if (watch->stopped)
        return;
    watch->stopped = true;
    mqtt_link_stop(watch->link);
    uv_close((uv_handle_t *)&watch->redraw, NULL);
    for (size_t i = 0; i < sizeof watch->signals / sizeof watch->signals[0]; i++)
        uv_close((uv_handle_t *)&watch->signals[i], NULL);
    if (watch->keys.data != NULL)
        uv_close((uv_handle_t *)&watch->keys, NULL);
    if (mqtt_link_is_connecting(watch->link))
        uv_stop(&watch->loop); // on a thread, which cannot be interrupted
}

static void on_stop(uv_timer_t *timer) {
    stop(timer->data);
}

// Not at once: we may have been called by the link.
static void stop_soon(struct watch *watch, int code) {
    if (watch->stopping)
        return;
    watch->stopping = true;
    watch->code = code;
    uv_timer_start(&watch->redraw, on_stop, 0, 0);
}

// --- the screen ---

static void on_log(void *context, enum log_level level, const char *text) {
    if (level > LOG_WARNING)
        return;
    pthread_mutex_lock(&note.lock);
    note.level = level;
    clean_text(text, strlen(text), note.text, sizeof note.text);
    pthread_mutex_unlock(&note.lock);
}

// Connected again: a warning is over, an error (a subscription that was refused) is not.
static void clear_note(void) {
    pthread_mutex_lock(&note.lock);
    if (note.level == LOG_WARNING)
        *note.text = '\0';
    pthread_mutex_unlock(&note.lock);
}

// Forgets the seconds that are over.
static void advance(struct watch *watch) {
    uint64_t second = uv_now(&watch->loop) / 1000;
    for (unsigned i = 0; watch->second < second && i < RATE_SECONDS; i++)
        watch->counts[++watch->second % RATE_SECONDS] = 0;
    watch->second = second;
}

static double rate(struct watch *watch) {
    unsigned sum = 0;
    advance(watch);
    for (size_t i = 0; i < RATE_SECONDS; i++)
        sum += watch->counts[i];
    return (double)sum / RATE_SECONDS;
}

static const char *state_of(const struct watch *watch) {
    return watch->is_up ? "connected" : watch->was_up ? "reconnecting" : "connecting";
}

static void copy_note(char copy[NOTE_MAX]) {
    pthread_mutex_lock(&note.lock);
    strcpy(copy, note.text);
    pthread_mutex_unlock(&note.lock);
}

static void write_screen(struct watch *watch, FILE *out) {
    char why[NOTE_MAX];
    int rows, columns;
    copy_note(why);
    const struct view_status status = {.broker = watch->broker,
                                       .state = state_of(watch),
                                       .note = *why != '\0' ? why : NULL,
                                       .device = watch->device,
                                       .rate = rate(watch),
                                       .odd = watch->odd};
    terminal_size(&rows, &columns);
    view_screen(out, listener_fleet(watch->listener), &status, &watch->choice, rows, columns, clock_now());
}

static void draw(struct watch *watch) {
    char *text = NULL;
    size_t length = 0;
    FILE *memory = must_have(open_memstream(&text, &length));
    write_screen(watch, memory);
    fclose(memory);
    bool written = terminal_write(text, length);
    free(text);
    watch->changed = false;
    watch->drawn = uv_now(&watch->loop) / 1000;
    if (!written)
        stop_soon(watch, 0);
}

static void ask_for_states(struct watch *watch) {
    const char *filter = listener_states(watch->listener);
    if (filter != NULL && mqtt_link_subscribe(watch->link, filter))
        listener_states_asked(watch->listener);
}

// Ages grow each second, even when nothing comes.
static void on_redraw(uv_timer_t *timer) {
    struct watch *watch = timer->data;
    if (watch->is_up && !watch->states_come)
        ask_for_states(watch);
    // While the states of many devices come in no particular order, sorting them for each redraw costs too
    // much.
    bool wanted = watch->changed && !watch->states_come;
    watch->states_come = false;
    if (wanted || uv_now(&watch->loop) / 1000 != watch->drawn)
        draw(watch);
}

// --- lines ---

static void print_line(struct watch *watch, const struct report *report) {
    struct line line = {.length = 0};
    view_line(&line, report);
    if (printf("%s\n", line.text) >= 0 && fflush(stdout) == 0)
        return;
    bool seen_enough = errno == EPIPE;
    if (!seen_enough)
        log_error("cannot write: %s", strerrordesc_np(errno));
    stop_soon(watch, seen_enough ? 0 : 1);
}

// --- what comes in ---

static void on_odd(void *context, const struct mqtt_received *received) {
    struct watch *watch = context;
    char topic[128];
    watch->odd++;
    if (!watch->live && limiter_allows(&watch->odd_limiter, uv_now(&watch->loop), "", 0, NULL))
        log_warning(
            "cannot understand the message on %s",
            log_quote((const uint8_t *)received->topic, strlen(received->topic), topic, sizeof topic));
}

static void on_presence(void *context, const struct report *report) {
    struct watch *watch = context;
    if (!watch->live)
        print_line(watch, report);
}

static void on_message(void *context, const struct report *report) {
    struct watch *watch = context;
    advance(watch);
    watch->counts[watch->second % RATE_SECONDS]++;
    if (!watch->live)
        print_line(watch, report);
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct watch *watch = context;
    if (watch->stopping)
        return;
    watch->changed = true;
    if (listener_take(watch->listener, received, clock_now()))
        watch->states_come = true;
}

static void on_connected(void *context) {
}

static void on_up(void *context) {
    struct watch *watch = context;
    watch->is_up = watch->was_up = watch->changed = true;
    clear_note();
    ask_for_states(watch); // identities first; lines need nothing else
}

static void on_down(void *context, enum mqtt_end end) {
    struct watch *watch = context;
    watch->is_up = false;
    watch->changed = true;
    listener_lost(watch->listener);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
}

static const struct mqtt_link_handlers handlers = {.connected = on_connected,
                                                   .up = on_up,
                                                   .down = on_down,
                                                   .published = on_published,
                                                   .received = on_received};

// --- beginning ---

static void take_terminal(struct watch *watch) {
    terminal_take();
    draw(watch);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct watch *watch = handle->data;
    if (number == SIGWINCH && watch->live) {
        watch->changed = true;
    } else if (number == SIGTSTP) {
        terminal_give_back();
        raise(SIGSTOP);
    } else if (number == SIGCONT) {
        if (watch->live)
            take_terminal(watch);
    } else if (number != SIGWINCH) {
        stop(watch);
    }
}

static void catch_signals(struct watch *watch) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGWINCH, SIGTSTP, SIGCONT};
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uv_signal_init(&watch->loop, &watch->signals[i]);
        watch->signals[i].data = watch;
        uv_signal_start(&watch->signals[i], on_signal, numbers[i]);
    }
}

static void scroll(struct view_choice *choice, enum key key) {
    size_t step = key == KEY_UP || key == KEY_DOWN ? 1 : choice->page;
    if (key == KEY_FIRST)
        choice->first = 0;
    else if (key == KEY_LAST)
        choice->first = SIZE_MAX; // the view puts it right
    else if (key == KEY_UP || key == KEY_PAGE_UP)
        choice->first -= choice->first < step ? choice->first : step;
    else
        choice->first += step;
}

// Whoever changes the order wants to see its beginning.
static void choose(struct view_choice *choice, enum key key) {
    if (key == KEY_HELP || choice->help) {
        choice->help = key == KEY_HELP && !choice->help;
    } else if (key == KEY_ORDER) {
        *choice = (struct view_choice){.order = (choice->order + 1) % ORDER_COUNT, .page = choice->page};
    } else if (key == KEY_REVERSE) {
        choice->reversed = !choice->reversed;
        choice->first = 0;
    } else if (key >= KEY_UP) {
        scroll(choice, key);
    }
}

static void on_keys(uv_poll_t *poll, int status, int events) {
    struct watch *watch = poll->data;
    char read_in[64];
    const char *bytes = read_in;
    ssize_t length = status == 0 ? read(STDIN_FILENO, read_in, sizeof read_in) : 0;
    if (length <= 0) {
        uv_poll_stop(poll);
        return;
    }
    enum key key;
    for (size_t count = (size_t)length; (key = key_next(&bytes, &count)) != KEY_NONE;) {
        if (key == KEY_QUIT) {
            stop(watch);
            return;
        }
        choose(&watch->choice, key);
        draw(watch); // a key that comes next counts from what is on the screen now
    }
}

static void begin_live(struct watch *watch) {
    log_divert(on_log, watch);
    if (terminal_has_keys() && uv_poll_init(&watch->loop, &watch->keys, STDIN_FILENO) == 0) {
        watch->keys.data = watch;
        uv_poll_start(&watch->keys, UV_READABLE, on_keys);
    }
    uv_timer_start(&watch->redraw, on_redraw, REDRAW, REDRAW);
    take_terminal(watch);
}

static void free_all(struct watch *watch) {
    mqtt_link_free(watch->link);
    listener_free(watch->listener);
    uv_loop_close(&watch->loop);
}

static void begin(struct watch *watch) {
    const struct config *config = watch->config;
    const struct listener_handlers heard = {
        .context = watch, .message = on_message, .presence = on_presence, .not_understood = on_odd};
    size_t count;
    watch->live = terminal_is_there();
    watch->odd_limiter.per_second = ODD_LINES;
    snprintf(watch->broker, sizeof watch->broker, "%s:%d", config->mqtt.host, config->mqtt.port);
    uv_loop_init(&watch->loop);
    uv_timer_init(&watch->loop, &watch->redraw);
    watch->redraw.data = watch;
    watch->listener = listener_new(config, watch->device, &heard);
    const struct mqtt_subscription *subscriptions = listener_subscriptions(watch->listener, &count);
    watch->link = mqtt_link_new(&watch->loop, config, subscriptions, count, MQTT_SESSION_NONE, NULL, NULL,
                                &handlers, watch);
    catch_signals(watch);
    if (watch->live)
        begin_live(watch);
}

static int run(struct watch *watch) {
    log_setup(watch->config->log_level, watch->config->log_format, 0);
    line_setup();
    begin(watch);
    mqtt_link_start(watch->link);
    uv_run(&watch->loop, UV_RUN_DEFAULT);
    terminal_give_back();
    if (mqtt_link_is_connecting(watch->link))
        _exit(watch->code);
    free_all(watch);
    return watch->code;
}

// Several may watch, on several machines: each needs a client_id of its own.
static char *make_client_id(const struct config *config) {
    uint16_t chance = 0;
    if (getrandom(&chance, sizeof chance, 0) < 0)
        must_have(NULL);
    return text_format("%s-watch-%d-%04x", config->mqtt.client_id, (int)getpid(), chance);
}

int watch_run(struct config *config, const char *device) {
    static struct watch watch;
    char *client_id = make_client_id(config);
    config->mqtt.client_id = client_id;
    watch.config = config;
    watch.device = device;
    int code = run(&watch);
    free(client_id);
    return code;
}
