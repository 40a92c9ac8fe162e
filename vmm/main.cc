#include "vmm/app/main_loop.h"

int main(int argc, char** argv) { return cpr::RunVmm(argc, argv); }
