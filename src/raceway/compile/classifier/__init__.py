"""The classifier: which of many thousand rules is the first that a packet matches, at a cost that grows little.

Recursive flow classification (Gupta, McKeown 1999), with what makes it small: rules are parted into groups by whether
their source and their destination are wide, for few sources meet few destinations when both are narrow; what is left
of a group's cross product is stored as a comb (row displacement, Tarjan, Yao 1979). Addresses and ports find their
class in a trie of 8-bit steps that ends in lines of a few boundaries, as DXR does (Zec, Rizzo, Mikuc 2012).

    source  ---> class --+                         group 0:  comb[base + d] ---> rule, if its ports fit
    destination> class --+--> rows: for each   --> group 1:  ...              \
    ports   ---> class --+    group a number       ...                        +--> the first of them
    protocol --> class --+                         group G:  ...              /

sets      what a rule wants of an address, a port or a protocol: ranges
classes   one dimension: where ranges begin and end, and which points no rule can tell apart
groups    the rules of a group: its cells, and what is in them
tries     addresses and ports to what is known of them
tables    everything in words
walk      looking a packet up: written once, and run interpreted, native and in the kernel
batches   looking many up at once, for machine code
classifier  the state object that a packet function uses
"""
