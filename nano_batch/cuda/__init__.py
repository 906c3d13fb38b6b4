"""What every CUDA C++ kernel of the package needs: a compiler, a cache on disk, a launch, shared headers."""
