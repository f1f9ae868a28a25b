// Answers in flespi's form: {"result":[…]}, with "errors" where something asked for is not there, and "pagination" where the
// query has a limit or an offset; or {"errors":[{"code":404,"reason":…}]}.
#pragma once

#include <jansson.h>

#include "gateway/fleet/fleet.h"
#include "gateway/web/http.h"
#include "gateway/web/selector.h"
#include "gateway/web/text_out.h"

struct flespi_list {
    struct text_out result, errors;
    struct fields fields; // that are wanted
    size_t count;         // items so far, those that the query leaves out included
    size_t written;       // of these
    unsigned code;        // of the first error
    size_t offset, limit;
    bool paged;
};

// Begins an answer to this request. False, and *fault, when its query makes no sense.
bool flespi_list_begin(struct flespi_list *list, const struct http_request *request,
                       struct http_answer *fault);
// Another item: whether the query wants it. Then it is to be written to result, which has the comma before it.
bool flespi_list_next(struct flespi_list *list);
// Something is wrong with the item of that id: code is a status of HTTP, and that of the answer when nothing else is in it.
void flespi_list_error(struct flespi_list *list, unsigned code, int64_t id, const char *reason);
// An item with that id is not there.
void flespi_list_missing(struct flespi_list *list, int64_t id);
// Adds those of an array of objects that the selector takes, each with an "id", with the members that are wanted.
void flespi_list_add(struct flespi_list *list, const json_t *items, const struct selector *selector);
// Writes a member of an item, when it is wanted.
void flespi_list_member(struct flespi_list *list, const char *name, const json_t *value);
// The answer: when there are errors and nothing else, its status is the code of the first. The list is empty afterwards.
struct http_answer flespi_list_end(struct flespi_list *list);
void flespi_list_free(struct flespi_list *list); // instead of that
// Writes what stands after the last item to the result.
void flespi_list_close(struct flespi_list *list);

__attribute__((format(printf, 2, 3))) struct http_answer flespi_fault(unsigned status, const char *format,
                                                                      ...);

// --- devices ---

// Calls fn for each device with an id that the selector takes, until it returns false; those asked for by id that are not there
// are missing in the list.
void flespi_each_device(struct fleet *fleet, const struct selector *selector, struct flespi_list *list,
                        bool (*fn)(void *context, const struct fleet_device *device), void *context);
// The ids of all devices, the lowest first: whoever reads a list page by page gets each once, whichever is heard meanwhile.
// For the caller to free.
int64_t *flespi_ids(struct fleet *fleet, size_t *count);
// Whether a device (or NULL) has what makes it one of flespi's: an id.
bool flespi_is_there(const struct fleet_device *device);
// Whether it is there, and the selector takes it.
bool flespi_device_taken(const struct fleet_device *device, const struct selector *selector);
// Writes a device as an item, when the query wants it.
void flespi_list_device(struct flespi_list *list, const struct fleet_device *device);

#define FLESPI_DEVICES_MAX 50 // whose values, messages and commands are asked for at once
