"""Files that workers write and the supervisor reads: identities, run locks, results, output."""
