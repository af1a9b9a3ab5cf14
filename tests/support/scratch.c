#include "support/scratch.h"

#include <stdio.h>
#include <stdlib.h>

const char *scratch_path(char path[SCRATCH_CAP], const char *name)
{
    const char *folder = getenv("KVANT_BUILD");
    snprintf(path, SCRATCH_CAP, "%s/%s", folder && *folder ? folder : "build", name);
    return path;
}
