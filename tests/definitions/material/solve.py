import numpy
import scipy.linalg

matrix = numpy.array([[2.0, 1.0], [1.0, 3.0]])
print(" ".join(f"{value:.3f}" for value in scipy.linalg.solve(matrix, [4.0, 7.0])))
