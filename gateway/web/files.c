// The page's files; see files.h. The table is made when building, by embed.py.
#include "gateway/web/files.h"

#include <string.h>

const struct file *file_find(const char *path) {
    for (const struct file *file = files; file->path != NULL; file++)
        if (strcmp(file->path, path) == 0)
            return file;
    return NULL;
}
