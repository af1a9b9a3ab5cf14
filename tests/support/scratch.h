/*
 * Where tests put files: the build folder that is being tested ($KVANT_BUILD, which tests/run sets), so that
 * suites of several configurations can run at the same time.
 */
#ifndef TESTS_SUPPORT_SCRATCH_H
#define TESTS_SUPPORT_SCRATCH_H

#define SCRATCH_CAP 1024

/* The path of a scratch file of this name, in the caller's buffer. */
const char *scratch_path(char path[SCRATCH_CAP], const char *name);

#endif
