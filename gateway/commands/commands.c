// Commands, as the rest of the gateway sees them; see commands.h.
#include "gateway/commands/commands.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/commands/intake.h"
#include "gateway/commands/sync.h"

#define SWEEP_INTERVAL 500 // milliseconds
#define SWEEP_STEP     20  // milliseconds between two portions of a sweep

struct commands {
    struct commands_parts parts;
    struct command_table table;
    struct command_voice voice;
    struct command_queue queue;
    struct command_sync sync;
    struct command_intake intake;
    struct command_journal journal;
    uv_timer_t sweep;
    uv_prepare_t turn; // looks whether something is left for the next turn of the loop
    uv_idle_t portion; // runs while there is
    bool recalling;    // what was there before the connection; the link is held
    struct command_counts counts;
};

static struct command_secret secret_of(const struct commands_parts *parts) {
    const struct config *config = parts->config;
    if (config->commands.key != NULL)
        return (struct command_secret){.bytes = config->commands.key, .length = config->commands.key_length};
    const char *secret = store_secret(parts->store);
    return (struct command_secret){.bytes = secret, .length = strlen(secret)};
}

static void wire(struct commands *commands) {
    const struct commands_parts *parts = &commands->parts;
    commands->voice = (struct command_voice){.bus = parts->bus,
                                             .outbox = parts->outbox,
                                             .store = parts->store,
                                             .secret = secret_of(parts),
                                             .counts = &commands->counts};
    commands->queue = (struct command_queue){.config = parts->config,
                                             .table = &commands->table,
                                             .voice = &commands->voice,
                                             .roll_call = parts->roll_call,
                                             .roads = &parts->roads};
    commands->sync = (struct command_sync){
        .queue = &commands->queue, .roll_call = parts->roll_call, .journal = &commands->journal};
    commands->intake = (struct command_intake){.queue = &commands->queue,
                                               .registry = parts->registry,
                                               .redelivery = redelivery_new(),
                                               .journal = &commands->journal};
}

struct commands *commands_new(const struct commands_parts *parts) {
    struct commands *commands = must_have(calloc(1, sizeof *commands));
    commands->parts = *parts;
    wire(commands);
    uv_timer_init(parts->loop, &commands->sweep);
    uv_prepare_init(parts->loop, &commands->turn);
    uv_idle_init(parts->loop, &commands->portion);
    commands->sweep.data = commands->turn.data = commands->portion.data = commands;
    return commands;
}

const struct command_counts *commands_counts(const struct commands *commands) {
    return &commands->counts;
}

size_t commands_waiting(const struct commands *commands) {
    return commands->table.pending + commands->journal.waiting;
}

static void on_sweep(uv_timer_t *timer) {
    struct commands *commands = timer->data;
    bool more = command_queue_sweep(&commands->queue, clock_ticks());
    uv_timer_start(timer, on_sweep, more ? SWEEP_STEP : SWEEP_INTERVAL, 0);
    command_sync_mark(&commands->sync);
    command_intake_sweep(&commands->intake, clock_ticks(), commands->sync.vouched);
}

static void recall(struct commands *commands) {
    commands->queue.effort = 0;
    bool more = command_sync_recall(&commands->sync);
    commands->queue.effort = 0;
    commands->recalling = command_intake_recall(&commands->intake) || more;
    if (!commands->recalling)
        bus_release(commands->parts.bus);
}

// No turn of the loop takes long: what is much work is done in portions.
static void on_portion(uv_idle_t *idle) {
    struct commands *commands = idle->data;
    uv_idle_stop(idle);
    if (commands->recalling) {
        recall(commands);
        return;
    }
    if (command_intake_has_more(&commands->intake))
        command_intake_go_on(&commands->intake);
    if (command_sync_has_more(&commands->sync))
        command_sync_go_on(&commands->sync);
    if (command_queue_has_more(&commands->queue))
        command_queue_go_on(&commands->queue);
}

static void on_turn(uv_prepare_t *prepare) {
    struct commands *commands = prepare->data;
    commands->queue.effort = 0;
    if (commands->recalling || command_intake_has_more(&commands->intake) ||
        command_sync_has_more(&commands->sync) || command_queue_has_more(&commands->queue))
        uv_idle_start(&commands->portion, on_portion);
}

void commands_start(struct commands *commands) {
    uv_prepare_start(&commands->turn, on_turn);
    uv_timer_start(&commands->sweep, on_sweep, SWEEP_INTERVAL, 0);
    command_sync_start(&commands->sync);
    commands->intake.before_session = commands->sync.before_session;
    commands->intake.before_run = commands->table.last_id;
}

void commands_stop(struct commands *commands) {
    uv_close((uv_handle_t *)&commands->sweep, NULL);
    uv_close((uv_handle_t *)&commands->turn, NULL);
    uv_close((uv_handle_t *)&commands->portion, NULL);
}

void commands_free(struct commands *commands) {
    command_queue_clear(&commands->queue);
    command_table_clear(&commands->table);
    redelivery_free(commands->intake.redelivery);
    command_intake_clear(&commands->intake);
    free(commands);
}

// --- the broker ---

void commands_link_connected(struct commands *commands, bool resumed) {
    command_sync_connected(&commands->sync);
    commands->queue.effort = 0;
    command_intake_connected(&commands->intake, resumed);
    if (commands->recalling ||
        !(commands->sync.recalling.under_way || command_intake_is_recalling(&commands->intake)))
        return;
    commands->recalling = true; // until then nothing is read
    bus_hold(commands->parts.bus);
    bus_enough(commands->parts.bus);
}

void commands_roll_call_settled(struct commands *commands) {
    command_intake_settled(&commands->intake, commands->sync.vouched);
    command_sync_settled(&commands->sync);
}

void commands_received(struct commands *commands, const char *topic, const struct mqtt_received *received) {
    command_sync_received(&commands->sync, topic, received);
}

void commands_take_in(struct commands *commands, const struct mqtt_received *received) {
    command_intake_take(&commands->intake, received);
    command_sync_mark(&commands->sync); // it leaves together with the acknowledgement
}

// --- devices ---

void commands_device_talks(struct commands *commands, int64_t device_id, int64_t channel_id,
                           const char *ident) {
    command_queue_device_talks(&commands->queue, device_id, channel_id, ident);
}

void commands_device_gone(struct commands *commands, int64_t device_id) {
    char key[COMMAND_KEY_MAX];
    command_key(key, device_id, 0, "");
    if (!commands->queue.config->commands.intake)
        return;
    command_journal_cancel(&commands->journal, commands->queue.voice, key);
    command_queue_cancel_all(&commands->queue, key);
}

void commands_answered(struct commands *commands, const struct road *from,
                       const struct codec_answer *answer) {
    command_queue_answered(&commands->queue, from, answer);
}
