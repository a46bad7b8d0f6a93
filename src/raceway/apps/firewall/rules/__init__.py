"""What an operator writes, read: from text to a rule set whose conditions are boxes.

    rules file -> language -> conditions, expression -> matching -> rule_set
                  importing (ClassBench, nftables)

text        what was written, and errors that show it
lists       files of addresses
language    statements, one a line
expression  tcpdump's expressions, with lists and sets
conditions  the common ones, looked up instead of read again
matching    conditions as trees, trees as boxes
rule_set    what all others work with
"""
