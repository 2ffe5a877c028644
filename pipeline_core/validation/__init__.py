"""What is wrong with files that an engine shall read: our own checks, and Khronos' validator where it is installed."""
