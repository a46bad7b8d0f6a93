"""Rules in other languages: each module reads one, says what it did not take over, and makes a `RuleSet`.

nftables     what nft list ruleset prints, as far as it can be said here
classbench   filter sets of ClassBench (Taylor, Turner 2005): first match wins, the verdict is the rule's number
"""
