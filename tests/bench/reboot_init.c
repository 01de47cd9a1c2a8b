/* The smallest init: restarts the machine at once. No C library; x86_64 only. */

static long system_call(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

void _start(void)
{
    enum { SYS_REBOOT = 169, MAGIC1 = 0xfee1dead, MAGIC2 = 672274793, RESTART = 0x01234567 };
    system_call(SYS_REBOOT, (int)MAGIC1, MAGIC2, RESTART);
    for (;;)
        ;
}
