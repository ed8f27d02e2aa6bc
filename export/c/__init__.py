"""A bundle as C99: for microcontrollers without an operating system, a file system or an allocator."""
