"""Nearest neighbours in a large set: an inverted file of quantized vectors, searched from disk.

What a search scans is a FAISS IVF-PQ structure: a rotation onto the principal directions, cells
around the centroids of a clustering, and of each vector a short code of where in its cell it is.
It answers with candidates; their stored vectors, `rerank`, decide. The structure is trained once,
vectors are encoded in any number of parts, on any number of machines, and the codes are put
together. Rows are numbered in the order of the codes.

Source: Jégou et al., 2011 (Product quantization, doi:10.1109/TPAMI.2010.57); Ge et al., 2013
(OPQ, doi:10.1109/TPAMI.2013.240); Douze et al., 2024 (FAISS, arXiv:2401.08281).
"""

from __future__ import annotations
