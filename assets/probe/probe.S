# Boot sector that shows whether an accelerator really runs code: it works, then ends QEMU with a known status.
# as --64 -o probe.o probe.S && ld -m elf_x86_64 -Ttext 0x7c00 -e start -o probe.elf probe.o && objcopy -O binary -j .text probe.elf probe.bin
#
# Some 20 million instructions, half of them in 32-bit protected mode, half in long mode (left out on a CPU
# model without it): milliseconds on hardware, 0.2 s under TCG, over 10 s on a KVM that emulates each
# instruction. A change here needs the same change in probe.bin, and shows in pytest_kvm/qemu/accel.py.

        .equ PORT, 0xf4         # isa-debug-exit: QEMU's status is (value << 1) | 1
        .equ PASS, 0x2a         # 85
        .equ BAD, 0x2b          # 87: the work gave a wrong sum

        .equ STEPS, 1 << 20
        .equ SUM, 0x58f6709c    # what STEPS steps add up to
        .equ ARENA, 0x200000    # 4 MiB that the firmware leaves alone when -m is 16
        .equ MASK, 0x3ffffc

        .equ PML4, 0x1000
        .equ PDPT, 0x2000
        .equ PD, 0x3000
        .equ TABLES_END, 0x4000

        .equ CODE32, 8
        .equ DATA, 16
        .equ CODE64, 24

        .code16
        .globl start
start:
        cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl gdtr
        movl %cr0, %eax
        orb $1, %al             # PE
        movl %eax, %cr0
        ljmpl $CODE32, $protected

        .code32
protected:
        movw $DATA, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $0x7c00, %esp
        cld
        call work

        movl $0x80000000, %eax
        cpuid
        cmpl $0x80000001, %eax
        jb passed
        movl $0x80000001, %eax
        cpuid
        btl $29, %edx           # LM
        jnc passed

        movl $PML4, %edi
        movl %edi, %cr3
        xorl %eax, %eax
        movl $(TABLES_END - PML4) / 4, %ecx
        rep stosl
        movw $PDPT + 3, PML4
        movw $PD + 3, PDPT
        movl $PD, %edi
        movl $0x83, %eax        # present, writable, 2 MiB
1:      movl %eax, (%edi)
        addl $8, %edi
        addl $0x200000, %eax
        cmpl $0x1000083, %eax
        jb 1b

        movl %cr4, %eax
        orb $0x20, %al          # PAE
        movl %eax, %cr4
        movl $0xc0000080, %ecx  # EFER
        rdmsr
        orb $1, %ah             # LME
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax   # PG
        movl %eax, %cr0
        ljmpl $CODE64, $long

        # A few of the privileged steps that Linux takes early; what faults here resets the guest.
        .code64
long:
        movl $0x7c00, %esp
        movl $0x1b, %ecx        # APIC_BASE
        rdmsr
        movl $0xfe, %ecx        # MTRRcap
        rdmsr
        movl $0x277, %ecx       # PAT
        rdmsr
        wrmsr
        movl $0xc0000101, %ecx  # GS_BASE
        movl $0x5000, %eax
        xorl %edx, %edx
        wrmsr
        movl $64, %edi
1:      movl $1, %eax
        cpuid
        subl $1, %edi
        jnz 1b
        call work

        # From here on the bytes mean the same in 32-bit and in 64-bit mode.
        .code32
passed:
        movb $PASS, %al
exit:
        outb %al, $PORT
1:      hlt
        jmp 1b
failed:
        movb $BAD, %al
        jmp exit

work:
        movl $ARENA, %edi
        movl $(MASK + 4) / 4, %ecx
        xorl %eax, %eax
        xorl %ebx, %ebx
        rep stosl
        movl $STEPS, %ecx
1:      imull $1664525, %eax, %eax
        addl $1013904223, %eax
        movl %eax, %edx
        shrl $8, %edx
        andl $MASK, %edx
        addl %eax, ARENA(%edx)
        addl ARENA(%edx), %ebx
        subl $1, %ecx
        jnz 1b
        cmpl $SUM, %ebx
        jne failed
        ret

        .balign 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff
        .quad 0x00cf93000000ffff
        .quad 0x00af9b000000ffff
gdtr:   .word gdtr - gdt - 1
        .long gdt

        .org 510
        .word 0xaa55
