"""gsplat.cuda: the functions below `rasterization`, on CPU and CUDA."""
