"""A local page on which a person moves settings and sees shape, cost, stability and evidence change: ``depthwidth explore``.

:mod:`.controls` lists the settings, :mod:`.state` maps settings to results and to the commands that give the same,
:mod:`.charts` draws, :mod:`.page` writes HTML, :mod:`.pieces` makes the two answers that the page asks for, :mod:`.server`
serves them on the loopback interface, and :mod:`.ahead` computes the likely next ones in a process of its own.
"""
