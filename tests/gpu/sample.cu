// SPDX-License-Identifier: BSD-3-Clause
// Adds two vectors on the card and checks the sums; for check.sh.
#include <cstdio>
#include <vector>

#include <cuda_runtime.h>

__global__ void add(const float *a, const float *b, float *sum, int count)
{
	int i = blockIdx.x * blockDim.x + threadIdx.x;
	if (i < count)
		sum[i] = a[i] + b[i];
}

#define CALL(call)                                                              \
	do {                                                                    \
		cudaError_t status = call;                                      \
		if (status != cudaSuccess) {                                    \
			printf("%s: %s\n", #call, cudaGetErrorString(status));  \
			return 1;                                               \
		}                                                               \
	} while (0)

int main()
{
	const int count = 1 << 20;
	std::vector<float> a(count), b(count), sum(count);
	float *here[3];
	int devices = 0, driver = 0, runtime = 0;

	for (int i = 0; i < count; i++) {
		a[i] = (float)i;
		b[i] = 1.0f;
	}
	CALL(cudaDriverGetVersion(&driver));
	CALL(cudaRuntimeGetVersion(&runtime));
	CALL(cudaGetDeviceCount(&devices));
	for (auto &part : here)
		CALL(cudaMalloc(&part, count * sizeof(float)));
	CALL(cudaMemcpy(here[0], a.data(), count * sizeof(float), cudaMemcpyHostToDevice));
	CALL(cudaMemcpy(here[1], b.data(), count * sizeof(float), cudaMemcpyHostToDevice));
	add<<<count / 256, 256>>>(here[0], here[1], here[2], count);
	CALL(cudaGetLastError());
	CALL(cudaMemcpy(sum.data(), here[2], count * sizeof(float), cudaMemcpyDeviceToHost));
	for (int i = 0; i < count; i++)
		if (sum[i] != a[i] + b[i]) {
			printf("sum %d is wrong\n", i);
			return 1;
		}
	printf("%d device(s), driver %d, runtime %d, %d sums\n", devices, driver, runtime, count);
	return 0;
}
