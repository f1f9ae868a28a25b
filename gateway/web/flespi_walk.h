// The list of the devices of a large fleet, in flespi's form, written as it is read: in portions, between which the loop does
// other things, and of which one is in memory. And which few of a large fleet are meant, found in portions as well.
#pragma once

#include "gateway/web/flespi_list.h"

#define FLESPI_WALKS_MAX 32  // that are read at once; each has 8 bytes for each device
#define FLESPI_LOOKS_MAX 500 // devices that are looked at for a portion; each costs some microseconds

struct flespi_walk;

// Begins to list the devices that are there now and that the selector (not one of ids) takes; those that go meanwhile are left
// out. The list, begun, is taken over, and is empty afterwards. NULL, and nothing is taken over, when too many are being read.
struct flespi_walk *flespi_walk_new(struct fleet *fleet, const struct selector *selector,
                                    struct flespi_list *list);
// Writes up to max bytes of it, at least one; -1 after the last.
ssize_t flespi_walk_read(void *walk, char *buffer, size_t max);
void flespi_walk_free(void *walk);

// In place of reading: looks on for devices that are taken, and tells whether there is nothing more to look at, or one more than
// FLESPI_DEVICES_MAX are found.
bool flespi_walk_choose(struct flespi_walk *walk);
// Calls fn for each that was found and is still there.
void flespi_walk_chosen(const struct flespi_walk *walk,
                        bool (*fn)(void *context, const struct fleet_device *device), void *context);
