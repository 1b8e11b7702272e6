# Words that hardening adds to the kernel command line, each with its reason in README.rst. Set to "" for none. A module that DKMS built
# has no signature this kernel trusts, so a guest that needs one cannot ask for signed modules only.
case ${DIB_VLLMD_PROFILE:-cpu} in
    cuda) export DIB_VLLMD_CMDLINE_HARDENING=${DIB_VLLMD_CMDLINE_HARDENING-"slab_nomerge vsyscall=none debugfs=off oops=panic"} ;;
    *) export DIB_VLLMD_CMDLINE_HARDENING=${DIB_VLLMD_CMDLINE_HARDENING-"lockdown=integrity slab_nomerge vsyscall=none debugfs=off oops=panic"} ;;
esac
