// Conditions on the members of an item, as flespi's selectors and filters write them:
// {position.speed>60 && (name=="Van 1" || configuration.ident=8664*)}.
//
// $ before a name is taken and means nothing. A name alone holds when the item has it and it is not false. With = and ~, * and ? in a
// value stand for any text and any character; == is exact. A comparison with what the item does not have does not hold.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define EXPRESSION_MAX         1024 // bytes
#define EXPRESSION_COMPARISONS 20   // each costs a look at every item

// The value of that name, a new reference; NULL when the item does not have it. Asked for once an item, however often the name stands
// in the expression.
typedef json_t *expression_value(void *context, const char *name);

struct expression {
    const char *text;
    size_t length;
    bool list; // a comma stands for &&, and a value without quotation marks may have spaces
};

// NULL when it can be understood, else why not, for the caller to free.
char *expression_fault(const struct expression *expression);
// Whether it holds for an item; expression has no fault.
bool expression_holds(const struct expression *expression, expression_value *value, void *context);

// A value of a JSON object by its name, which may go down into objects in it ("configuration.ident"): an expression_value
// whose context is the object.
json_t *expression_member(void *object, const char *name);

// Whether text is pattern, in which * stands for any text and ? for any character.
bool expression_is_like(const char *pattern, size_t length, const char *text);
