"""Chess: find the best move of a puzzle (Burns et al. 2023, section 4.2).

A Lichess puzzle is a position, a move by which the opponent errs, and the line that punishes it. What is asked for is
the line's first move; every move of the side that solves is an only move, save that any mate in one is as good as
another (database.lichess.org).

    recipes     the tasks: the Lichess dump, EleutherAI/lichess-puzzles, and text for pretraining
    puzzles     their rows become examples
    positions   what the rules say of positions and moves
    judge       is a move legal, is it as good as the solution
    extra       python-chess is optional, because its licence is the GPL: who opens a chess task needs it, nobody else
"""
