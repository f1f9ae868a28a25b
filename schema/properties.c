// A flat bag of named scalars; see properties.h.
#include "schema/properties.h"

#include <string.h>

const struct property *properties_find(const struct properties *bag, const char *name) {
    for (size_t i = 0; i < bag->count; i++)
        if (strcmp(bag->items[i].name, name) == 0)
            return &bag->items[i];
    return NULL;
}

static const struct property *find_typed(const struct properties *bag, const char *name,
                                         enum property_type type) {
    const struct property *found = properties_find(bag, name);
    return found != NULL && found->type == type ? found : NULL;
}

const char *properties_text(const struct properties *bag, const char *name, const char *absent) {
    const struct property *found = find_typed(bag, name, PROPERTY_TEXT);
    return found != NULL ? found->text : absent;
}

int64_t properties_integer(const struct properties *bag, const char *name, int64_t absent) {
    const struct property *found = find_typed(bag, name, PROPERTY_NUMBER);
    return found != NULL && found->number.places == 0 ? found->number.mantissa : absent;
}

bool properties_boolean(const struct properties *bag, const char *name, bool absent) {
    const struct property *found = find_typed(bag, name, PROPERTY_BOOLEAN);
    return found != NULL ? found->boolean : absent;
}
