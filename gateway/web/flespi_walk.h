// The list of the devices of a large fleet, in flespi's form, written as it is read: in portions, between which the loop does
// other things, and of which one is in memory.
#pragma once

#include "gateway/web/flespi_list.h"

#define FLESPI_WALKS_MAX 32  // that are read at once; each has 8 bytes for each device
#define FLESPI_LOOKS_MAX 500 // devices that are looked at for a portion

struct flespi_walk;

// Begins to list the devices that are there now and that the selector (not one of ids) takes; those that go meanwhile are left
// out. The list, begun, is taken over, and is empty afterwards. NULL, and nothing is taken over, when too many are being read.
struct flespi_walk *flespi_walk_new(struct fleet *fleet, const struct selector *selector,
                                    struct flespi_list *list);
// Writes up to max bytes of it, at least one; -1 after the last.
ssize_t flespi_walk_read(void *walk, char *buffer, size_t max);
void flespi_walk_free(void *walk);
