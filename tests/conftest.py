"""Settings of every test run."""

import os

# Before torch is imported: workers (`-n 2`) whose threads share the same cores wait for each other's, which made the
# whole run twice as long and single tests run into their time limit. Programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
