// The store: full, damaged, of an older or newer run, unusable; and untouched while the broker keeps up.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/faults/world.h"

static char disk[96]; // a small one of the test's own, when it has one

static void clean(void) {
    if (disk[0] != '\0')
        umount2(disk, MNT_DETACH);
    rig_clean();
}

TestSuite(faults_disk, .fini = clean);

#define FEW     ((struct world_setup){.mictrack = 6, .magicyo = 6, .udp = 4, .magicyo_udp = 4, .rate = 3000})
#define REPORTS "message/gw/devices/" VAN

// --- full ---

// The reports came in order, from 0 to count - 1 and none twice.
static void expect_in_order(struct rig *rig, int count) {
    const struct rig_message *message;
    size_t next = 0;
    for (int i = 0; i < count; i++) {
        message = rig_next(rig, REPORTS, &next);
        cr_assert(message != NULL && seqnum_of(message) == i, "%d came in place of %d",
                  message != NULL ? seqnum_of(message) : -1, i);
    }
    cr_assert(rig_next(rig, REPORTS, &next) == NULL, "more than %d reports came", count);
}

static bool has_unread(void *context) {
    return world_has_unread(context);
}

static void expect_held_up(struct world *world) {
    cr_assert(rig_wait(has_unread, world, RIG_DEADLINE), "the gateway still reads from devices");
    WORLD_EXPECT(world, udp_repeats, 8); // nobody answers them
    cr_assert(world_has_unread(world));
}

Test(faults_disk, store_max_bytes_is_reached) {
    struct rig *rig = rig_with_broker(NULL);
    struct world *world = world_new(rig, FEW);
    world_start_gateway(world, "'store':{'max_bytes':1048576}");
    int seconds = world_seconds(0);
    do {
        world_send(world, true);
        WORLD_EXPECT(world, received, 20);
        size_t full = rig_log_count(rig, "the outbox is full"),
               read = rig_log_count(rig, "reading from devices again");
        rig_broker_freeze(rig);
        rig_expect_log_times(rig, "the outbox is full", full + 1);
        expect_held_up(world);
        rig_broker_thaw(rig);
        rig_expect(rig, INSTANCE, "{'full':true}");
        rig_expect(rig, INSTANCE, "{'full':false}");
        rig_expect_log_times(rig, "reading from devices again", read + 1);
        // Later it may be full again at once, with what connections had to say.
        cr_assert(rig_log_count(rig, "datagrams were dropped") >
                  rig_log_count(rig, "again; 0 datagrams were dropped"));
        WORLD_EXPECT(world, acknowledged, 100);
    } while (!world_is_over(world, seconds));
    world_finish(world, "store.max_bytes");
}

// It becomes full in the middle of what was read at once: the rest of that is kept too.
Test(faults_disk, full_in_the_middle_of_what_was_read) {
    struct rig *rig = rig_new();
    size_t length = 0;
    char *text;
    FILE *reports = open_memstream(&text, &length);
    for (int i = 0; i < 4000; i++)
        fputs(report(VAN, i), reports);
    fclose(reports);
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    rig_gateway_start(rig, "{'store':{'max_bytes':1048576},'messages':['devices']}");
    rig_expect_log(rig, ": connected");
    rig_broker_freeze(rig);
    int device = rig_tcp(rig);
    size_t first = (size_t)(strchr(text + length / 8, '\n') + 1 - text);
    device_send_bytes(device, text, first);
    rig_expect_log(rig, "writing them to disk");
    device_send_bytes(device, text + first, length - first);
    rig_expect_log(rig, "the outbox is full");
    rig_broker_thaw(rig);
    rig_expect(rig, REPORTS, "{'message.seqnum':3999}");
    expect_in_order(rig, 4000);
    free(text);
    rig_finish(rig);
}

// In a mount namespace of this process: with it the disk goes, however it ends.
static void mount_disk_of(struct rig *rig, const char *size) {
    snprintf(disk, sizeof disk, "%s/disk", rig->directory);
    mkdir(disk, 0700);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", disk, "tmpfs", 0, size) != 0) {
        rig->finished = true;
        cr_skip_test("cannot mount a small disk");
    }
}

static void mount_disk(struct rig *rig) {
    mount_disk_of(rig, "size=1m");
}

Test(faults_disk, the_disk_is_full) {
    struct rig *rig = rig_new();
    char store[160];
    rig_broker_start(rig, NULL);
    mount_disk(rig);
    struct world *world = world_new(
        rig, (struct world_setup){.mictrack = 16, .magicyo = 4, .udp = 4, .magicyo_udp = 4, .rate = 6000});
    snprintf(store, sizeof store, "'store':{'path':'%s/store.db'}", disk);
    world_start_gateway(world, store);
    int seconds = world_seconds(0);
    do {
        size_t failed = rig_log_count(rig, "the store cannot be written: database or disk is full");
        size_t full = rig_log_count(rig, "the outbox is full"),
               read = rig_log_count(rig, "reading from devices again");
        world_send(world, true);
        WORLD_EXPECT(world, received, 20);
        rig_broker_kill(rig);
        rig_expect_log_times(rig, "the store cannot be written: database or disk is full", failed + 1);
        rig_expect_log_times(rig, "the outbox is full", full + 1);
        expect_held_up(world);
        rig_broker_start(rig, NULL);
        rig_expect_log_times(rig, "reading from devices again", read + 1);
        WORLD_EXPECT(world, acknowledged, 500);
        rig_expect_log(rig, "the broker is keeping up again");
        world_pause(world);
        rig_expect_counters(rig, "outbox: 0 messages");
    } while (!world_is_over(world, seconds));
    world_finish(world, "disk full");
}

// The next start needs no room to drain a full disk.
Test(faults_disk, killed_and_started_with_a_full_disk) {
    struct rig *rig = rig_new();
    char store[160];
    rig_broker_start(rig, NULL);
    mount_disk(rig);
    struct world *world = world_new(rig, FEW);
    snprintf(store, sizeof store, "'store':{'path':'%s/store.db'}", disk);
    world_start_gateway(world, store);
    world_send(world, true);
    WORLD_EXPECT(world, received, 20);
    rig_broker_kill(rig);
    rig_expect_log(rig, "the store cannot be written: database or disk is full");
    world_kill_gateway(world);
    world_start_gateway(world, store);
    rig_expect_log(rig, "messages are waiting since the last run");
    rig_broker_start(rig, NULL);
    WORLD_EXPECT(world, acknowledged, 200);
    world_finish(world, "killed with a full disk");
}

static size_t disk_free(void) {
    struct statvfs status;
    cr_assert(statvfs(disk, &status) == 0);
    return (size_t)status.f_bavail * status.f_bsize;
}

// All but what a store without messages takes: 500 KiB, the reserve included.
static bool has_space_again(void *context) {
    (void)context;
    return disk_free() > (3 << 20) - (500 << 10);
}

static void expect_space_again(void) {
    cr_assert(rig_wait(has_space_again, NULL, RIG_DEADLINE), "%zu bytes are free", disk_free());
}

// However it filled, ended and began again: all is delivered, the disk is as before, and it can fill again.
Test(faults_disk, that_was_filled_has_its_space_again) {
    struct rig *rig = rig_new();
    char store[160];
    rig_broker_start(rig, NULL);
    mount_disk_of(rig, "size=3m");
    struct world *world = world_new(
        rig, (struct world_setup){.mictrack = 16, .magicyo = 4, .udp = 4, .magicyo_udp = 4, .rate = 6000});
    snprintf(store, sizeof store, "'store':{'path':'%s/store.db'}", disk);
    world_start_gateway(world, store);
    for (int round = 1; round <= 3; round++) { // each with a gateway of its own
        world_send(world, true);
        WORLD_EXPECT(world, received, 20);
        rig_broker_kill(rig);
        rig_expect_log(rig, "the outbox is full");
        if (round == 2) { // in the middle of it, and again with nothing of it delivered
            world_kill_gateway(world);
            world_start_gateway(world, store);
            rig_expect_log(rig, "messages are waiting since the last run");
            world_kill_gateway(world);
            world_start_gateway(world, store);
        }
        rig_broker_start(rig, NULL);
        WORLD_EXPECT(world, acknowledged, 500);
        world_pause(world);
        rig_expect_counters(rig, "outbox: 0 messages");
        expect_space_again();
        world_stop_gateway(world);
        expect_space_again();
        world_start_gateway(world, store);
    }
    world_finish(world, "disk filled by the store");
}

// --- not touched ---

static void look_at(struct rig *rig, const char *name, struct stat *status) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", rig->directory, name);
    memset(status, 0, sizeof *status);
    stat(path, status);
}

static void expect_same(const struct stat *before, const struct stat *after) {
    cr_assert(before->st_size == after->st_size);
    cr_assert(before->st_mtim.tv_sec == after->st_mtim.tv_sec &&
              before->st_mtim.tv_nsec == after->st_mtim.tv_nsec);
}

// By the size and the time of the files: every write moves the time.
Test(faults_disk, is_not_touched_while_the_broker_keeps_up) {
    struct rig *rig = rig_new();
    struct stat file, log, file_after, log_after;
    rig_broker_start(rig, NULL);
    struct world *world = world_new(rig, FEW);
    world_start_gateway(world, NULL);
    world_send(world, true);
    WORLD_EXPECT(world, received, 20);
    look_at(rig, "store.db", &file);
    look_at(rig, "store.db-wal", &log);
    cr_assert(file.st_mtim.tv_sec != 0);
    WORLD_EXPECT(world, received, 3000);
    look_at(rig, "store.db", &file_after);
    look_at(rig, "store.db-wal", &log_after);
    expect_same(&file, &file_after);
    expect_same(&log, &log_after);
    world_finish(world, "not touched");
}

// --- found at the start ---

static void store_path(struct rig *rig, char *path, size_t capacity) {
    snprintf(path, capacity, "%s/store.db", rig->directory);
}

static void wait_until_read(struct rig *rig, int count) {
    char text[48];
    snprintf(text, sizeof text, " %d messages, ", count);
    rig_expect_counters(rig, text);
}

// A store with reports 0 to count - 1 of one device.
static void fill_store(struct rig *rig, int count) {
    rig_broker_reserve(rig);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig);
    for (int i = 0; i < count; i++)
        device_send(device, report(VAN, i));
    wait_until_read(rig, count);
    close(device);
    rig_gateway_stop(rig);
}

Test(faults_disk, of_the_last_run_comes_before_new_messages) {
    struct rig *rig = rig_new();
    fill_store(rig, 1500);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "messages are waiting since the last run");
    int device = rig_tcp(rig);
    for (int i = 1500; i < 1700; i++)
        device_send(device, report(VAN, i));
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    rig_expect(rig, REPORTS, "{'message.seqnum':1699}");
    expect_in_order(rig, 1700);
    rig_expect_counters(rig, "outbox: 0 messages");
    rig_gateway_stop(rig);
    rig_gateway_start(rig, NULL);
    cr_assert(!rig_log_has(rig, "waiting since the last run"));
    rig_finish(rig);
}

static off_t size_of(const char *file) {
    struct stat status;
    return stat(file, &status) == 0 ? status.st_size : 0;
}

static const char *grown_file;
static off_t grown_from;

static bool has_grown(void *context) {
    return size_of(grown_file) > grown_from;
}

// The report is in a write of its own.
static void store_report(struct rig *rig, int device, int seqnum, const char *wal) {
    grown_file = wal;
    grown_from = size_of(wal);
    device_send(device, report(VAN, seqnum));
    cr_assert(rig_wait(has_grown, rig, RIG_DEADLINE), "report %d is not written", seqnum);
}

// The store is deleted under the gateway's feet, and what was written ahead of it is damaged before the next start.
Test(faults_disk, that_is_deleted_or_damaged_is_noticed) {
    struct rig *rig = rig_new();
    char path[128], wal[140], junk[500];
    store_path(rig, path, sizeof path);
    snprintf(wal, sizeof wal, "%s-wal", path);
    fill_store(rig, 20); // the broker is away
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "messages are waiting since the last run"); // with what else there is to say
    unlink(path);
    unlink(wal);
    rig_expect_log(
        rig, "was deleted or replaced while the store was in use; all that was in it was written again");
    int device = rig_tcp(rig);
    for (int i = 20; i < 30; i++)
        store_report(rig, device, i, wal);
    rig_gateway_kill(rig);
    int file = open(wal, O_WRONLY);
    memset(junk, 0xA5, sizeof junk);
    cr_assert(file >= 0 && pwrite(file, junk, sizeof junk, lseek(file, 0, SEEK_END) / 3) == sizeof junk);
    close(file);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "-wal is damaged: the last");
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    device_send(rig_tcp(rig), report(VAN, 99));
    rig_expect(rig, REPORTS, "{'message.seqnum':99}");
    for (int i = 0; i < 20; i++) {
        char subset[40];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, REPORTS, subset);
    }
    rig_finish(rig);
}

static void expect_set_aside(struct rig *rig) {
    char path[128];
    store_path(rig, path, sizeof path);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "the store is damaged and was set aside as");
    strcat(path, ".damaged");
    cr_assert(access(path, F_OK) == 0);
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    device_send(rig_tcp(rig), report(VAN, 7));
    rig_expect(rig, REPORTS, "{'message.seqnum':7}");
    rig_finish(rig);
}

Test(faults_disk, of_random_bytes_is_set_aside) {
    struct rig *rig = rig_new();
    char path[128];
    unsigned seed = 1;
    store_path(rig, path, sizeof path);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 20000; i++)
        fputc(rand_r(&seed) & 0xFF, file);
    fclose(file);
    rig_broker_reserve(rig);
    expect_set_aside(rig);
}

Test(faults_disk, that_was_cut_off_is_set_aside) {
    struct rig *rig = rig_new();
    char path[128];
    struct stat status;
    fill_store(rig, 300);
    store_path(rig, path, sizeof path);
    cr_assert(stat(path, &status) == 0 && truncate(path, status.st_size / 2) == 0);
    expect_set_aside(rig);
}

// The user version stands in bytes 60 to 63 of the file.
Test(faults_disk, of_a_newer_version_is_left_alone) {
    struct rig *rig = rig_new();
    char path[128];
    fill_store(rig, 1);
    store_path(rig, path, sizeof path);
    int file = open(path, O_RDWR);
    cr_assert(pwrite(file, "\0\0\0\2", 4, 60) == 4);
    close(file);
    rig_expect_no_start(rig, NULL, "cannot be used: it was written by a newer version");
    rig->finished = true;
}

static void expect_no_start(const char *place, const char *why) {
    struct rig *rig = rig_new();
    char changes[256], file[128];
    snprintf(file, sizeof file, "%s/file", rig->directory);
    fclose(fopen(file, "w"));
    snprintf(changes, sizeof changes, "{'store':{'path':'%s%s'}}", rig->directory, place);
    rig_expect_no_start(rig, changes, why);
    rig->finished = true;
}

Test(faults_disk, below_a_file_is_no_store) {
    expect_no_start("/file/store.db", "/file/store.db cannot be used: Not a directory");
}

Test(faults_disk, that_is_a_directory_is_no_store) {
    expect_no_start("", "cannot be used: Is a directory");
}

Test(faults_disk, that_cannot_be_written_is_no_store) {
    struct rig *rig = rig_new();
    char changes[256];
    mount_disk(rig);
    cr_assert(mount("tmpfs", disk, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m") == 0);
    snprintf(changes, sizeof changes, "{'store':{'path':'%s/store.db'}}", disk);
    rig_expect_no_start(rig, changes, "/store.db cannot be used: Read-only file system");
    rig->finished = true;
}

// The disk is full before there is a store at all.
Test(faults_disk, on_a_full_disk_cannot_be_made) {
    struct rig *rig = rig_new();
    char changes[256], file[128];
    static const char zeros[4096];
    mount_disk(rig);
    snprintf(file, sizeof file, "%s/file", disk);
    int filler = open(file, O_WRONLY | O_CREAT, 0600);
    while (write(filler, zeros, sizeof zeros) > 0)
        ;
    close(filler);
    snprintf(changes, sizeof changes, "{'store':{'path':'%s/store.db'}}", disk);
    rig_expect_no_start(rig, changes, "/store.db cannot be used: database or disk is full");
    cr_assert(unlink(file) == 0);
    rig_gateway_start(rig, changes); // and then it can
    rig_finish(rig);
}
